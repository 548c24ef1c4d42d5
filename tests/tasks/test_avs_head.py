"""The mask decoder: TPAVI against its plain form, losses against their definitions, towers of any shape."""

import pytest
import torch
from torch.nn import functional as F

from hmmoe.tasks.avs_head import MaskHead, SoundGuide, match

WIDTHS = {"video": 8, "audio": 6, "video/0": 4, "video/1": 8, "video/2": 8}
TOKENS = {
    "video": 4,
    "audio": 7,
    "video/0": 64,
    "video/1": 17,
    "video/2": 4,
}  # 17: a class token before 4 x 4


def states(batch: int = 2, **tokens: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {m: torch.randn(batch, 3, {**TOKENS, **tokens}[m], d) for m, d in WIDTHS.items()}


def test_the_guide_is_attention_of_all_pixels_to_all_pixels():
    guide = SoundGuide(8)
    x, heard = torch.randn(2 * 3, 8, 4, 5), torch.randn(2, 3, 8)
    found = guide(x, heard)
    # The plain form: the sound is repeated over its frame, every pixel looks at every pixel of the clip.
    pixels = x.unflatten(0, (2, 3)).transpose(1, 2).flatten(2)  # (B, C, T·h·w)
    conv = lambda m, v: F.conv1d(v, m.weight[:, :, 0], m.bias)  # noqa: E731
    sounds = guide.phi(heard).repeat_interleave(20, 1)  # (B, T·h·w, I)
    weights = conv(guide.theta, pixels).transpose(1, 2) @ sounds.transpose(1, 2) / 60
    y = weights @ conv(guide.g, pixels).transpose(1, 2)  # (B, T·h·w, I)
    y = conv(guide.back, y.transpose(1, 2)).unflatten(2, (3, 4, 5)).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(found, x + guide.norm(y))


@pytest.mark.parametrize("kind", ["tpavi", "linear"])
def test_masks_are_of_the_size_asked_for_whatever_the_towers(kind):
    head = MaskHead(WIDTHS, 40, kind, channels=8)
    logits = head(states(), {})
    assert logits["masks"].shape == (2, 3, 40, 40)
    assert logits["matching"].shape == (2,)
    same_size = MaskHead(WIDTHS, 40, kind, channels=8)(states(**{"video/0": 16, "video/1": 16}), {})
    assert same_size["masks"].shape == (2, 3, 40, 40)


def test_what_is_heard_moves_the_masks_and_a_linear_head_is_deaf():
    given = states()
    other = given | {"audio": torch.randn_like(given["audio"])}
    for kind, deaf in (("tpavi", False), ("linear", True)):
        head = MaskHead(WIDTHS, 16, kind, channels=8)
        assert torch.equal(head(given, {})["masks"], head(other, {})["masks"]) is deaf


def test_a_missing_stream_counts_as_zeros():
    head = MaskHead(WIDTHS, 16, channels=8)
    given = states()
    deaf = {m: x for m, x in given.items() if m != "audio"}
    assert head(deaf, {})["masks"].shape == (2, 3, 16, 16)
    assert head({"audio": given["audio"]}, {})["masks"].shape == (2, 3, 16, 16)
    mask = torch.ones(2, 3, TOKENS["audio"], dtype=torch.bool)
    mask[1] = False  # missing in the second sample only
    found = head(given, {"audio": mask})["masks"]
    torch.testing.assert_close(found[1], head({k: v[1:] for k, v in deaf.items()}, {})["masks"][0])
    torch.testing.assert_close(found[0], head(given, {})["masks"][0])


def test_frames_that_are_not_annotated_do_not_count():
    head = MaskHead(WIDTHS, 8, "linear")
    logits = {"masks": torch.randn(1, 3, 8, 8), "matching": torch.zeros(1)}
    labels = torch.full((1, 3, 8, 8), -1, dtype=torch.int8)
    labels[0, 0] = torch.randint(0, 2, (8, 8))
    expected = F.binary_cross_entropy_with_logits(logits["masks"][0, 0], labels[0, 0].float())
    torch.testing.assert_close(head.loss(logits, labels), expected)
    assert head.loss(logits, torch.full_like(labels, -1)) == 0


def test_the_matching_loss_is_avsbenchs_kl_and_has_its_weight():
    found, z, heard = torch.randn(2 * 3, 1, 8, 8), torch.randn(2 * 3, 4, 2, 2), torch.randn(2, 3, 4)
    inside = torch.sigmoid(F.adaptive_avg_pool2d(found, 2))
    seen = F.normalize((z * inside).mean(-1).mean(-1), dim=-1)
    sound = F.normalize(heard.reshape(-1, 4), dim=-1)
    total = F.kl_div(seen.softmax(-1).log(), sound.softmax(-1), reduction="sum")
    torch.testing.assert_close(match(found, z, heard).sum(), total)
    logits = {"masks": torch.zeros(2, 3, 8, 8), "matching": torch.tensor([1.0, 3.0])}
    labels = torch.zeros(2, 3, 8, 8, dtype=torch.int8)
    plain = MaskHead(WIDTHS, 8, "linear", matching=0).loss(logits, labels)
    torch.testing.assert_close(MaskHead(WIDTHS, 8, "linear", matching=0.5).loss(logits, labels), plain + 1)


def test_the_decoder_learns_a_mask_that_follows_the_sound():
    # Two halves of the picture hold the two things; which is masked is in the sound alone.
    torch.manual_seed(0)
    widths = {"video": 4, "audio": 4, "video/0": 4}
    head = MaskHead(widths, 8, channels=32)
    picture = torch.zeros(1, 1, 4, 4, 4)
    picture[..., :2, 0] = picture[..., 2:, 1] = 3.0
    tokens = picture.flatten(2, 3).expand(2, 1, 16, 4)
    heard = torch.tensor([[3.0, 0, 0, 0], [0, 3.0, 0, 0]]).reshape(2, 1, 1, 4)
    labels = torch.zeros(2, 1, 8, 8, dtype=torch.int8)
    labels[0, 0, :, :4] = labels[1, 0, :, 4:] = 1
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    given = {"video": tokens, "video/0": tokens, "audio": heard}
    for _ in range(40):
        loss = head.loss(head(given, {}), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert ((head(given, {})["masks"] > 0) == (labels == 1)).float().mean() > 0.95

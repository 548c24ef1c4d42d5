"""Streams that run later read what earlier ones left, as if all had met."""

import pytest
import torch

from hmmoe.layer import HMMoELayer, Read
from hmmoe.streams.layouts import leading_tokens
from hmmoe.streams.lockstep import Link
from hmmoe.streams.recall import Recall

WIDTHS = {"video": 6, "audio": 5, "text": 4}


@pytest.fixture
def layer():
    layer = HMMoELayer(WIDTHS, rank=3, latents=2, exact_tokens=4).double().eval()
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return layer


@pytest.fixture
def states():
    return {
        m: torch.randn(4, n, d, dtype=torch.float64)
        for (m, d), n in zip(WIDTHS.items(), (9, 7, 3), strict=True)
    }


MASKS = {"audio": torch.tensor([[True] * 7, [True] * 5 + [False] * 2, [False] * 7, [True] * 7])}


def test_a_later_stream_gets_the_update_it_would_have_got_with_all_together(layer, states):
    together, routing = layer(states, MASKS)
    kept: dict[str, Read] = {}
    media = {m: states[m] for m in ("video", "audio")}
    earlier, _ = layer(media, MASKS, keep=kept)
    later, alone = layer({"text": states["text"]}, known=kept)
    assert set(earlier) == set(kept) == {"video", "audio"}
    torch.testing.assert_close(later["text"], together["text"])
    assert set(alone.weights) == {"text"}
    torch.testing.assert_close(alone.weights["text"], routing.weights["text"])


def test_earlier_streams_run_as_without_the_later_one(layer, states):
    media = {m: states[m] for m in ("video", "audio")}
    kept: dict[str, Read] = {}
    for m, update in layer(media, MASKS, keep=kept)[0].items():
        assert torch.equal(update, layer(media, MASKS)[0][m])


def test_a_causal_streams_update_does_not_depend_on_what_follows(layer):
    text, known = torch.randn(2, 8, 4, dtype=torch.float64), {}
    layer({"video": torch.randn(2, 9, 6, dtype=torch.float64)}, keep=known)
    lead = torch.zeros(2, 8, dtype=torch.bool)
    lead[:, :2] = True

    def update(n):
        return layer({"text": text[:, :n]}, known=known, lead={"text": lead[:, :n]})[0]["text"]

    torch.testing.assert_close(update(8)[:, :3], update(3))
    assert not torch.allclose(layer({"text": text}, known=known)[0]["text"][:, :3], update(3))


def test_a_stream_cannot_run_twice(layer, states):
    kept: dict[str, Read] = {}
    layer(states, keep=kept)
    with pytest.raises(ValueError, match="'video' is in known and in states"):
        layer({"video": states["video"]}, known=kept)


def test_recall_puts_the_steps_of_a_sample_side_by_side_and_picks_rows():
    z = torch.arange(24.0).view(4, 3, 2)  # two samples of two steps
    mask = torch.tensor([[True, True, True], [True, False, False]] * 2)
    link = Link("default", 5, "video", ("video",), {"video": 2}, (torch.nn.Identity(),))
    recall = Recall()
    recall.put(link, {"video": Read(z, z.mean(1), mask)}, 2)
    read = recall.at(link)["video"]
    torch.testing.assert_close(read.z, z.view(2, 6, 2))
    torch.testing.assert_close(read.c[0], z.view(2, 6, 2)[0, :4].mean(0))
    rows = recall.rows(torch.tensor([1, 1, 0])).at(link)["video"]
    torch.testing.assert_close(rows.z, z.view(2, 6, 2)[[1, 1, 0]])
    torch.testing.assert_close(rows.mask[0], mask[2:].flatten())
    assert recall.only(["audio"]).at(link) == {}


def test_the_leading_tokens_of_a_mask_are_those_that_all_see():
    sees = torch.ones(5, 5, dtype=torch.bool).tril()
    sees[:2, :2] = True  # a prompt of two
    additive = torch.zeros(1, 1, 5, 5).masked_fill(~sees, -10000.0)
    assert leading_tokens(additive).tolist() == [[True, True, False, False, False]]
    with pytest.raises(ValueError, match=r"must be \(B, heads"):
        leading_tokens(torch.ones(2, 5))

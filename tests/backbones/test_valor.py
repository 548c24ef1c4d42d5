"""VALOR against a straight-line computation from the official state dict; objectives; generation."""

import itertools
import math
import re

import pytest
import torch
from transformers import CLIPVisionConfig, ViTConfig
from valor_reference import Reference, official_state, small_config

from hmmoe.backbones.valor import ValorConfig, ValorModel, VideoSwinConfig
from hmmoe.backbones.valor.generation import generate
from hmmoe.backbones.valor.objectives import (
    FineFeatures,
    captioning_loss,
    contrastive_loss,
    fine_similarity,
    mask_words,
)

TOLERANCE = {"rtol": 0, "atol": 1e-6}


def pair(frames: str) -> tuple[ValorModel, Reference]:
    config = small_config(frames)
    state = official_state(config)
    return ValorModel.from_official(state, config).double(), Reference(state, config)


@pytest.fixture(scope="module")
def clip() -> tuple[ValorModel, Reference]:
    return pair("clip")


@pytest.fixture(scope="module")
def swin() -> tuple[ValorModel, Reference]:
    return pair("swin")


@pytest.fixture
def media() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return {
        "pixel_values": torch.randn(2, 3, 3, 32, 32, generator=g, dtype=torch.float64),
        "audio_values": torch.randn(2, 2, 32, 48, generator=g, dtype=torch.float64),
    }


# ---- encoders against the reference


def test_clip_frames_norm_every_token(clip, media):
    model, reference = clip
    expected = torch.stack([reference.video(frames) for frames in media["pixel_values"]])
    torch.testing.assert_close(model.encode_video(media["pixel_values"]), expected, **TOLERANCE)


@pytest.mark.parametrize(
    ("frames", "height", "width"),
    [(5, 24, 20), (3, 24, 24), (8, 14, 26)],
    ids=["padded in time and space", "fewer frames than a window", "uneven sides"],
)
def test_video_swin(swin, frames, height, width):
    model, reference = swin
    video = torch.randn(1, frames, 3, height, width, dtype=torch.float64)
    torch.testing.assert_close(model.encode_video(video)[0], reference.video(video[0]), **TOLERANCE)


def test_video_swin_checkpointing_and_inference_mode_leave_gradients_alone(swin):
    model, _ = swin
    video = torch.randn(1, 6, 3, 24, 24, dtype=torch.float64, requires_grad=True)
    with torch.inference_mode():
        model.encode_video(video)  # its cached index must serve the training step below
    (plain,) = torch.autograd.grad(model.encode_video(video).square().sum(), video)
    model.activation_checkpointing_enable()
    model.train()
    (checkpointed,) = torch.autograd.grad(model.encode_video(video).square().sum(), video)
    model.activation_checkpointing_disable()
    model.eval()
    torch.testing.assert_close(plain, checkpointed)


def test_audio(clip, media):
    model, reference = clip
    expected = torch.stack(
        [torch.stack([reference.audio(c) for c in clips]) for clips in media["audio_values"]]
    )
    torch.testing.assert_close(model.encode_audio(media["audio_values"]), expected, **TOLERANCE)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("prompt", [(), (5, 6, 7)])
def test_text_alone(clip, prompt, causal):
    model, reference = clip
    ids = torch.tensor([[1, 8, 9, 10, 2], [1, 11, 2, 0, 0]])
    prompts = torch.tensor([prompt] * 2) if prompt else None
    got = model.run_text(ids, (ids > 0).long(), prompts, causal=causal)
    for row, words in enumerate(ids):
        expected = reference.text(words.tolist(), prompt, causal, real=(words > 0).tolist())
        torch.testing.assert_close(got[row], expected, **TOLERANCE)


def test_padded_prompts_are_not_seen(clip):
    model, reference = clip
    ids = torch.tensor([[1, 8, 9], [1, 8, 9]])
    prompt, mask = torch.tensor([[5, 6, 7], [5, 6, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    got = model.run_text(ids, None, prompt, mask, causal=True)
    for row, words in enumerate(([5, 6, 7], [5, 6])):
        torch.testing.assert_close(got[row], reference.text([1, 8, 9], words, causal=True), **TOLERANCE)


@pytest.mark.parametrize("system", ["clip", "swin"])
def test_captions_of_every_group(system, media, request):
    model, reference = request.getfixturevalue(system)
    ids, prompt = torch.tensor([[1, 8, 3, 10], [1, 3, 9, 2]]), torch.tensor([[5, 6], [7, 8]])
    out = model(**media, decoder_input_ids=ids, prompt_ids=prompt)
    assert list(out.logits) == ["tv", "ta", "tva"]
    for row in range(2):
        video = reference.memory(reference.video(media["pixel_values"][row]), "video")
        sound = torch.stack([reference.audio(c) for c in media["audio_values"][row]])
        audio = reference.memory(sound, "audio")
        for group, memory in {"tv": video, "ta": audio, "tva": torch.cat([video, audio])}.items():
            states = reference.text(ids[row].tolist(), prompt[row].tolist(), causal=True, memory=memory)
            torch.testing.assert_close(out.logits[group][row], reference.words(states), **TOLERANCE)


@pytest.mark.parametrize("system", ["clip", "swin"])
def test_alignment_of_every_group(system, media, request):
    model, reference = request.getfixturevalue(system)
    ids = torch.tensor([[1, 8, 9, 10, 2], [1, 11, 2, 0, 0]])
    prompt = torch.tensor([[5, 6, 7]] * 2)
    out = model(**media, input_ids=ids, attention_mask=(ids > 0).long(), contrast_prompt_ids=prompt)
    texts, sides = [], {"tv": [], "ta": [], "tva": []}
    for row, words in enumerate(ids):
        words = words[words > 0].tolist()
        texts.append(reference.contrast(reference.text(words, (5, 6, 7)), "text"))
        frames = reference.video(media["pixel_values"][row])
        frames = frames[:, 0] if model.config.clip_frames else frames.mean(1)
        video = reference.contrast(frames, "video")
        clips = torch.stack([reference.audio(c)[0] for c in media["audio_values"][row]])
        audio = reference.contrast(clips, "audio")
        both = tuple(torch.cat(parts) for parts in zip(video, audio, strict=True))
        for group, side in (("tv", video), ("ta", audio), ("tva", both)):
            sides[group].append(side)
    losses = []
    for group, media_of in sides.items():
        scores = torch.tensor(
            [[reference.similarity(t, m) for m in media_of] for t in texts], dtype=torch.float64
        )
        torch.testing.assert_close(out.similarity[group], scores, **TOLERANCE)
        rows = scores / reference.temperature()
        down, across = rows.log_softmax(0), rows.log_softmax(1)
        losses.append(-sum(float(down[i, i] + across[i, i]) for i in range(2)) / 4)
    torch.testing.assert_close(out.mga_loss.item(), sum(losses) / 3, **TOLERANCE)
    torch.testing.assert_close(out.loss.item(), 1.5 * sum(losses) / 3, **TOLERANCE)


# ---- training


@pytest.mark.parametrize("frames", ["clip", "swin"])
def test_every_weight_learns_from_both_losses_together(frames):
    model = ValorModel(small_config(frames))
    ids = torch.randint(4, 40, (3, 6))
    masked, labels = mask_words(ids, share=0.6, mask_id=3, vocab_size=40, keep_ids=[0, 1])
    out = model(
        pixel_values=torch.randn(3, 2, 3, 32, 32),
        audio_values=torch.randn(3, 2, 32, 48),
        input_ids=ids,
        decoder_input_ids=masked,
        labels=labels,
        prompt_ids=ids[:, :2],
    )
    torch.testing.assert_close(out.loss, 1.5 * out.mga_loss + out.mgc_loss)
    out.loss.backward()
    silent = re.compile(r"(key|k_proj)\.bias$")  # a key's bias shifts all scores of a query alike
    named = [(name, p.grad) for name, p in model.named_parameters() if not silent.search(name)]
    assert not [name for name, grad in named if grad is None or not grad.abs().sum() > 0]


def test_flagged_silence_is_as_if_there_were_no_sound(clip, media):
    model, _ = clip
    ids = torch.tensor([[1, 8, 3], [1, 3, 2]])
    silent = media | {"audio_values": torch.zeros_like(media["audio_values"])}
    flagged = model(
        **silent, audio_present=torch.tensor([False, False]), input_ids=ids, decoder_input_ids=ids
    )
    torch.testing.assert_close(flagged.logits["tva"], flagged.logits["tv"], **TOLERANCE)
    torch.testing.assert_close(flagged.similarity["tva"], flagged.similarity["tv"], **TOLERANCE)
    assert flagged.similarity["ta"].abs().sum() == 0
    unflagged = model(**silent, decoder_input_ids=ids)  # VALOR's own way: zeros are a sound like any other
    assert not torch.allclose(unflagged.logits["tva"], unflagged.logits["tv"])


def test_a_batch_without_any_sound_has_finite_loss_and_gradients():
    model = ValorModel(small_config())
    ids = torch.tensor([[1, 8, 3], [1, 3, 2]])
    present = torch.tensor([False, False])
    videos, sounds = torch.randn(2, 2, 3, 32, 32), torch.zeros(2, 1, 32, 48)
    out = model(videos, sounds, present, ids, decoder_input_ids=ids, labels=ids)
    out.loss.backward()
    assert torch.isfinite(out.loss)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def features(*shape: int, real: float = 0.7) -> FineFeatures:
    mask = torch.rand(shape[:2]) < real
    mask[:, 0] = True
    vectors = torch.nn.functional.normalize(torch.randn(shape, dtype=torch.float64), dim=-1)
    return FineFeatures(vectors.requires_grad_(), torch.randn(shape[:2], dtype=torch.float64), mask)


def test_fine_similarity_equals_loops():
    text, media = features(3, 5, 4), features(2, 6, 4)
    got = fine_similarity(text, media)
    for a, b in itertools.product(range(3), range(2)):
        words = [i for i in range(5) if text.mask[a, i]]
        items = [i for i in range(6) if media.mask[b, i]]
        w = {i: math.exp(text.scores[a, i]) for i in words}
        v = {i: math.exp(media.scores[b, i]) for i in items}
        dot = {(i, j): (text.vectors[a, i] @ media.vectors[b, j]).item() for i in words for j in items}
        by_words = sum(w[i] * max(dot[i, j] for j in items) for i in words) / sum(w.values())
        by_items = sum(v[j] * max(dot[i, j] for i in words) for j in items) / sum(v.values())
        assert got[a, b].item() == pytest.approx((by_words + by_items) / 2, abs=1e-12)


def test_similarity_to_nothing_is_zero_with_finite_gradients():
    text, media = features(2, 3, 4), features(2, 3, 4)
    media.mask[1] = False
    got = fine_similarity(text, media)
    got.sum().backward()
    assert got[:, 1].abs().sum() == 0
    assert (got[:, 0] != 0).all()
    assert text.vectors.grad.isfinite().all()
    assert media.vectors.grad.isfinite().all()


def test_contrastive_loss_equals_loops_and_leaves_absent_samples_out():
    scores = torch.randn(4, 4, dtype=torch.float64)
    present = torch.tensor([True, False, True, True])
    got = contrastive_loss(scores, 0.5, present)
    kept = [0, 2, 3]
    total = 0.0
    for i in kept:
        rows = sum(math.exp(scores[i, j] / 0.5) for j in kept)
        columns = sum(math.exp(scores[j, i] / 0.5) for j in kept)
        total += math.log(rows) + math.log(columns) - 2 * float(scores[i, i]) / 0.5
    assert got.item() == pytest.approx(total / 6)
    assert contrastive_loss(scores, 0.5, torch.zeros(4, dtype=torch.bool)) == 0


def test_captioning_loss_reads_hidden_places_only():
    logits, labels = torch.randn(2, 3, 5), torch.tensor([[-100, 4, -100], [2, -100, -100]])
    expected = -(logits[0, 1].log_softmax(0)[4] + logits[1, 0].log_softmax(0)[2]) / 2
    torch.testing.assert_close(captioning_loss(logits, labels), expected)
    assert captioning_loss(logits, torch.full_like(labels, -100)) == 0


def test_mask_words_hides_the_share_in_the_proportions_of_bert():
    ids = torch.randint(10, 1000, (400, 52))
    ids[:, 0], ids[:, -1] = 1, 0
    g = torch.Generator().manual_seed(0)
    masked, labels = mask_words(ids, share=0.6, mask_id=3, vocab_size=1000, keep_ids=[0, 1], generator=g)
    hidden = labels != -100
    assert torch.equal(masked[~hidden], ids[~hidden])
    assert torch.equal(labels[hidden], ids[hidden])
    assert not hidden[:, [0, -1]].any()
    assert hidden[:, 1:-1].float().mean() == pytest.approx(0.6, abs=0.01)
    assert (masked[hidden] == 3).float().mean() == pytest.approx(0.8, abs=0.01)
    assert (masked[hidden] == ids[hidden]).float().mean() == pytest.approx(0.1, abs=0.01)


def test_mask_words_hides_at_least_one_and_never_a_kept_word():
    ids = torch.tensor([[1, 7, 8], [1, 0, 0]])
    _, labels = mask_words(ids, share=1e-9, mask_id=3, vocab_size=9, keep_ids=[0, 1])
    assert (labels != -100).sum(1).tolist() == [1, 0]
    with pytest.raises(ValueError, match="share=0"):
        mask_words(ids, share=0, mask_id=3, vocab_size=9, keep_ids=[0])


# ---- generation

START, END, PAD = 1, 2, 0


def language(vocab: int, seed: int):
    """Next-word logits that depend on the whole text so far."""
    known: dict[tuple[int, ...], torch.Tensor] = {}

    def logits(row: int, text: tuple[int, ...]) -> torch.Tensor:
        key = (seed, row, *text)
        if key not in known:
            known[key] = torch.randn(vocab, generator=torch.Generator().manual_seed(hash(key) % 2**31)) * 2
        return known[key]

    def next_word(rows, ids):
        return torch.stack([logits(int(r), tuple(t.tolist())) for r, t in zip(rows, ids, strict=True)])

    return logits, next_word


def slow_beam(logits, row: int, vocab: int, beams: int, steps: int) -> list[int]:
    alive = [((START,), 0.0)]
    for _ in range(steps):
        grown = []
        for text, score in alive:
            if END in text[1:]:
                grown.append((text, score))
                continue
            logp = logits(row, text).log_softmax(0)
            grown += [((*text, word), score + float(logp[word])) for word in range(vocab)]
        alive = sorted(grown, key=lambda item: -item[1])[:beams]
    return list(alive[0][0][1:])


def words(row: torch.Tensor) -> list[int]:
    return [w for w in row.tolist() if w != PAD]


@pytest.mark.parametrize("beams", [1, 3, 200])
@pytest.mark.parametrize("seed", range(4))
def test_beam_equals_a_slow_beam(beams, seed):
    logits, next_word = language(5, seed)
    got = generate(next_word, 3, start_id=START, end_id=END, pad_id=PAD, num_beams=beams, max_tokens=4)
    for row in range(3):
        expected = slow_beam(logits, row, 5, beams, 4)
        assert words(got[row]) == [w for w in expected if w not in (END, PAD)]


def test_a_wide_beam_finds_the_best_of_all_texts():
    logits, next_word = language(4, 7)
    scores = {}
    for length in (1, 2, 3):
        for text in itertools.product(range(4), repeat=length):
            if END in text[:-1] or (length < 3 and text[-1] != END):
                continue
            steps = [logits(0, (START, *text[:i])).log_softmax(0)[text[i]] for i in range(length)]
            scores[text] = float(sum(steps))
    best = max(scores, key=scores.__getitem__)
    got = generate(next_word, 1, start_id=START, end_id=END, pad_id=PAD, num_beams=64, max_tokens=3)
    assert words(got[0]) == [w for w in best if w not in (END, PAD)]


def test_generation_stops_when_all_texts_have_ended():
    steps = []

    def next_word(rows, ids):
        steps.append(len(rows))
        # the first sample ends at once, the second after one word
        return torch.stack(
            [
                torch.eye(5)[END if r == 0 or t.shape[0] > 1 else 4] * 50
                for r, t in zip(rows, ids, strict=True)
            ]
        )

    got = generate(next_word, 2, start_id=START, end_id=END, pad_id=PAD, max_tokens=30)
    assert got.tolist() == [[PAD, PAD], [4, PAD]]
    assert steps == [2, 1]  # a finished text costs nothing more


def test_the_model_writes_what_its_own_next_word_says(clip, media):
    model, reference = clip
    ids = model.generate(
        **media, prompt_ids=torch.tensor([[5, 6]] * 2), start_id=1, end_id=2, mask_id=3, max_tokens=4
    )
    for row in range(2):
        video = reference.memory(reference.video(media["pixel_values"][row]), "video")
        sound = torch.stack([reference.audio(c) for c in media["audio_values"][row]])
        memory = torch.cat([video, reference.memory(sound, "audio")])
        text = [1]
        while len(text) < 5 and text[-1] != 2:
            states = reference.text([*text, 3], (5, 6), causal=True, memory=memory)
            text.append(int(reference.words(states)[-1].argmax()))
        expected = [w for w in text[1:] if w != 2]
        assert ids[row, : len(expected)].tolist() == expected
        assert not ids[row, len(expected) :].any()


def test_beam_of_the_model_equals_a_slow_beam_without_batching(clip, media):
    model, _ = clip
    got = model.generate(**media, start_id=1, end_id=2, mask_id=3, num_beams=3, max_tokens=3)
    for row in range(2):
        memory, mask = model.media_memory(
            model.encode_video(media["pixel_values"][row : row + 1]),
            model.encode_audio(media["audio_values"][row : row + 1]),
        )

        def logits(_, text, memory=memory, mask=mask):
            ids = torch.tensor([[*text, 3]])
            states = model.run_text(ids, causal=True, memory=memory, memory_mask=mask)
            return model.cls(states[:, -1])[0].detach()

        expected = [w for w in slow_beam(logits, 0, 40, 3, 3) if w not in (END, PAD)]
        assert words(got[row]) == expected


# ---- configuration and bad input


def test_config_round_trip(tmp_path):
    for config in (ValorConfig(), ValorConfig.base(), small_config("swin", use_task_prompt=False)):
        config.save_pretrained(tmp_path)
        again = ValorConfig.from_pretrained(tmp_path)
        assert again.to_dict() == config.to_dict()
        assert type(again.vision_config) is type(config.vision_config)


def test_published_sizes():
    with torch.device("meta"):
        large, base = ValorModel(ValorConfig()), ValorModel(ValorConfig.base())
    assert isinstance(large.config.vision_config, CLIPVisionConfig)
    assert isinstance(base.config.vision_config, VideoSwinConfig)
    assert base.config.vision_config.hidden_size == large.config.vision_config.hidden_size == 1024
    # tied and shared weights counted once
    millions = {name: sum(p.numel() for p in m.parameters()) / 1e6 for name, m in (("L", large), ("B", base))}
    assert millions == pytest.approx({"L": 529.35, "B": 313.81}, abs=0.01)
    # the paper's 342 M of VALOR-B are those of a cross-attention for each medium, see the configuration
    cross = sum(p.numel() for n, p in base.named_parameters() if "crossattention" in n) / 1e6
    assert millions["B"] + cross == pytest.approx(342.18, abs=0.01)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: m(input_ids=torch.ones(1, 2, dtype=torch.long)),
            "give pixel_values, audio_values or both",
        ),
        (lambda m: m(pixel_values=torch.zeros(1, 2, 3, 32, 32)), "give input_ids"),
        (lambda m: m.encode_video(torch.zeros(2, 3, 32, 32)), r"\(batch, frames, 3, H, W\)"),
        (lambda m: m.encode_audio(torch.zeros(2, 32, 48)), r"\(batch, clips, bands, steps\)"),
        (lambda m: m.encode_audio(torch.zeros(1, 1, 48, 32)), r"give \(32, 48\)"),
        (lambda m: m.media_memory(torch.zeros(1, 9, 5, 32)), "max_frames"),
        (lambda m: m.media_memory(), "nothing to read"),
        (lambda m: m._groups(["tvaa"], {"video": None}), "unknown group 'tvaa', did you mean 'tva'"),
        (lambda m: m._groups(["tva"], {"video": None}), "needs video and audio"),
        (lambda m: generate(None, 1, start_id=1, end_id=2, pad_id=0, num_beams=0), "num_beams=0"),
    ],
)
def test_bad_input_is_told(call, message):
    model = ValorModel(small_config())
    with pytest.raises(ValueError, match=message):
        call(model)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vision_config": ViTConfig()}, "give a CLIPVisionConfig"),
        ({"text_config": {"is_decoder": False}}, "is_decoder=True"),
        ({"contra_dim": "wide"}, "contra_dim"),
    ],
)
def test_bad_config_is_told(fields, message):
    with pytest.raises(Exception, match=message):
        ValorConfig(**fields)


def test_bad_swin_config_is_told():
    with pytest.raises(ValueError, match="one entry per stage"):
        VideoSwinConfig(depths=[2], num_heads=[1, 2])
    with pytest.raises(ValueError, match=r"num_heads\[0\]=3"):
        VideoSwinConfig(num_heads=[3, 8, 16, 32])

"""HMMoE on VALOR: frames and sound meet, the decoder reads what they left, texts to be aligned read alone."""

import pytest
import torch
from valor_reference import official_state, small_config

import hmmoe
from hmmoe.backbones.valor import ValorModel
from hmmoe.backbones.valor.generation import generate
from hmmoe.config import HMMoEConfig
from hmmoe.streams.recall import Recall

SPECIAL = {"start_id": 1, "end_id": 2, "mask_id": 3}
BLOCKS = {
    "clip": "video.clip.encoder.layers.*",
    "swin": "video.layers.*.blocks.*",
    "audio": "audio.layers.*",
    "text": "text.encoder.layer.*",
}


def build(frames="clip"):
    config = small_config(frames)
    return ValorModel.from_official(official_state(config), config).double().requires_grad_(False)


def adapted(frames="clip", wake=0.3, **options):
    streams = {"video": BLOCKS[frames], "audio": BLOCKS["audio"], "text": BLOCKS["text"]}
    torch.manual_seed(1)
    config = HMMoEConfig(streams=streams, **{"rank": 4, "latents": 2, "exact_tokens": 4, **options})
    model = hmmoe.get_peft_model(build(frames), config)
    torch.manual_seed(2)
    for p in model.parameters():
        if wake and p.requires_grad:
            p.data += wake * torch.randn_like(p)
    return model.eval()


@pytest.fixture
def media():
    g = torch.Generator().manual_seed(1)
    return {
        "pixel_values": torch.randn(3, 4, 3, 32, 32, generator=g, dtype=torch.float64),
        "audio_values": torch.randn(3, 2, 32, 48, generator=g, dtype=torch.float64),
    }


@pytest.fixture
def words():
    g = torch.Generator().manual_seed(2)
    ids = torch.randint(4, 40, (3, 9), generator=g)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"decoder_input_ids": ids, "decoder_attention_mask": mask}


@pytest.fixture
def prompt():
    return {
        "prompt_ids": torch.tensor([[5, 6, 7]]).expand(3, -1),
        "prompt_mask": torch.tensor([[1, 1, 0]] * 3),
    }


@pytest.mark.parametrize("frames", ["clip", "swin"])
def test_it_starts_as_the_frozen_model_and_returns_to_it(frames, media, words):
    frozen, model = build(frames)(**media, **words).logits, adapted(frames, wake=0)
    for group, logits in model(**media, **words).logits.items():
        assert torch.equal(logits, frozen[group])
    model = adapted(frames)
    changed = model(**media, **words).logits
    assert not any(torch.equal(changed[group], frozen[group]) for group in frozen)
    with model.disable_adapter():
        assert torch.equal(model(**media, **words).logits["tva"], frozen["tva"])


@pytest.mark.parametrize("frames", ["clip", "swin"])
def test_a_gradient_reaches_every_adapter(frames, media, words):
    model = adapted(frames)
    labels = words["decoder_input_ids"]
    output = model(**media, **words, input_ids=labels, labels=labels)
    output.loss.backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(p.grad.abs().sum() > 0 for n, p in model.named_parameters() if p.requires_grad and ".up." in n)


def test_training_adds_the_routers_losses_and_standardises_every_stream(media, words):
    model = adapted(wake=0).train()
    model(**media, **words, labels=words["decoder_input_ids"])
    balance, z = model.base_model.model.hmmoe_last.losses["default"]
    assert balance > 0
    assert z > 0
    counts = [b for name, b in model.named_buffers() if name.endswith(".count")]
    assert len(counts) == 3 * 2
    assert all(count > 0 for count in counts)


def test_a_text_to_align_reads_no_media_and_media_no_text(media):
    model, ids = adapted(), torch.randint(4, 40, (3, 5))
    other = {k: torch.randn_like(x) for k, x in media.items()}
    valor = model.base_model.model
    one, two = (valor.text_features(ids).vectors for _ in range(2))
    assert torch.equal(one, two)
    matrix = model(**media, input_ids=ids).similarity["tva"]
    first = {k: torch.cat([media[k][:1], other[k][1:]]) for k in media}
    mixed = model(**first, input_ids=torch.cat([ids[:1], ids[1:].flip(1)])).similarity["tva"]
    torch.testing.assert_close(matrix[0, 0], mixed[0, 0])


def test_the_decoder_reads_the_media_of_its_group_only(media, words):
    model = adapted()
    sound, known = torch.randn_like(media["audio_values"]), Recall()
    valor = model.base_model.model
    states = valor.encode(media["pixel_values"], None, keep=known)
    memory, mask = valor.media_memory(states["video"])
    ids, real = words.values()
    alone = valor.run_text(ids, real, causal=True, memory=memory, memory_mask=mask, known=known)
    frames = valor.encode(media["pixel_values"], sound, keep=known)["video"]
    assert not torch.allclose(frames, states["video"])  # frames and sound do meet
    again = valor.run_text(
        ids, real, causal=True, memory=memory, memory_mask=mask, known=known.only(["audio"])
    )
    assert not torch.allclose(again, alone)


@pytest.mark.parametrize("router", ["sample", "token"])
@pytest.mark.parametrize("prompted", [False, True])
def test_later_words_change_nothing_before_them(router, prompted, media, words, prompt):
    model = adapted(router=router, sample_context=True)
    given = {**media, **words, **(prompt if prompted else {})}
    before = model(**given).logits["tva"]
    given["decoder_input_ids"] = given["decoder_input_ids"].clone()
    given["decoder_input_ids"][:, 5:] = 4
    after = model(**given).logits["tva"]
    torch.testing.assert_close(after[:, :5], before[:, :5])
    assert not torch.allclose(after[:, 5:], before[:, 5:])
    given = {**given, "decoder_input_ids": words["decoder_input_ids"][:, :5]}
    given["decoder_attention_mask"] = words["decoder_attention_mask"][:, :5]
    torch.testing.assert_close(model(**given).logits["tva"], before[:, :5])


def test_a_sample_without_sound_is_read_as_if_there_were_none(media, words):
    model = adapted()
    media["pixel_values"] = media["pixel_values"][:, :2]  # a frame for each clip, so one for each step alone
    there = torch.tensor([True, False, True])
    mixed = model(**media, **words, audio_present=there, groups=["tva"]).logits["tva"]
    noise = {**media, "audio_values": media["audio_values"].clone()}
    noise["audio_values"][1] = 7.0
    again = model(**noise, **words, audio_present=there, groups=["tva"]).logits["tva"]
    torch.testing.assert_close(mixed, again)
    silent = model(pixel_values=media["pixel_values"], **words, groups=["tv"]).logits["tv"]
    torch.testing.assert_close(mixed[1], silent[1])


def test_a_saved_adapter_comes_back_bit_equal(media, words, tmp_path):
    model = adapted()
    model.save_pretrained(tmp_path)
    again = hmmoe.from_pretrained(build(), tmp_path).eval()
    assert torch.equal(again(**media, **words).logits["tva"], model(**media, **words).logits["tva"])


def whole(model, media, ids, prompt):
    """Logits of the word after ids (R, k): media, prompt and text through everything, nothing kept."""
    masked = torch.nn.functional.pad(ids, (0, 1), value=SPECIAL["mask_id"])
    return model(**media, **prompt, decoder_input_ids=masked, groups=["tva"]).logits["tva"][:, -1]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("prompted", [False, True])
def test_generation_that_keeps_the_media_equals_one_that_runs_all_at_every_step(
    beams, prompted, media, prompt, monkeypatch
):
    model, given = adapted(), prompt if prompted else {}
    there = torch.tensor([True, False, True])

    def next_word(rows, ids):
        inputs = {k: x[rows] for k, x in {**media, "audio_present": there}.items()}
        return whole(model, inputs, ids, {k: x[rows] for k, x in given.items()})

    steps = []
    valor = model.base_model.model
    run_text = valor.run_text

    def spy(*args, **kwargs):
        steps.append(run_text(*args, **kwargs))
        return steps[-1]

    with torch.no_grad():
        slow = generate(next_word, 3, start_id=1, end_id=2, pad_id=0, num_beams=beams, max_tokens=6)
        monkeypatch.setattr(valor, "run_text", spy)
        fast = model.generate(**media, audio_present=there, **given, **SPECIAL, num_beams=beams, max_tokens=6)
    assert torch.equal(fast, slow)
    assert len(steps) == 6  # no text ended early: all steps were compared
    ids = torch.cat([torch.ones(3, 1, dtype=torch.long), fast[:, :5]], 1)
    if beams == 1:
        rows = torch.arange(3)
        torch.testing.assert_close(valor.cls(steps[-1][:, -1]), next_word(rows, ids), rtol=0, atol=1e-9)

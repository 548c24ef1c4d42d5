"""VALOR's preparation of frames, sound and words."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertTokenizer
from valor_reference import small_config

from hmmoe.backbones.valor import ValorConfig, ValorModel, ValorProcessor
from hmmoe.backbones.valor.audio import audio_clips, log_mel
from hmmoe.backbones.valor.processing import CLIP_MEAN, IMAGENET_MEAN, PROMPTS, clean, sample_segments

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "a", "dog", "barks", "what", "is", "this"]
WORDS += sorted(set(" ".join(PROMPTS.values()).split()) - set(WORDS))


@pytest.fixture
def tokenizer() -> BertTokenizer:
    return BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})


def decode(ids: torch.Tensor) -> str:
    return " ".join(WORDS[i] for i in ids.tolist() if i)


def test_inputs_run_through_the_model(tokenizer):
    config = small_config("clip")
    processor = ValorProcessor.for_config(config, tokenizer)
    video = np.random.default_rng(0).integers(0, 256, (9, 20, 30, 3), dtype=np.uint8)
    wave = np.random.default_rng(0).standard_normal(22050).astype(np.float32) * 0.1
    inputs = processor(
        [video, list(map(Image.fromarray, video))], [(wave, 22050), None], ["A dog barks!", "dog"]
    )
    assert inputs["pixel_values"].shape == (2, 8, 3, 32, 32)
    assert torch.equal(inputs["pixel_values"][0], inputs["pixel_values"][1])
    assert inputs["audio_values"].shape == (2, 2, 32, 48)
    assert inputs["audio_present"].tolist() == [True, False]
    assert not inputs["audio_values"][1].any()
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (2, 30)
    inputs["pixel_values"] = inputs["pixel_values"][:, :4]
    model = ValorModel(config)
    assert (
        model(**inputs, **{f"contrast_{k}": v for k, v in processor.prompt("retrieval", 2).items()}).loss > 0
    )
    ids = model.generate(
        inputs["pixel_values"], **processor.prompt("caption", 2), start_id=1, end_id=2, mask_id=3, num_beams=3
    )
    assert ids.shape[0] == 2


def test_frames_are_normed_with_the_encoders_own_numbers(tokenizer):
    grey = np.full((1, 8, 8, 3), 51, np.uint8)
    for config, mean, std in (
        (ValorConfig(), CLIP_MEAN, 0.26862954),
        (ValorConfig.base(), IMAGENET_MEAN, 0.229),
    ):
        pixels = ValorProcessor.for_config(config, tokenizer)([grey], num_frames=1)["pixel_values"]
        assert pixels.shape == (1, 1, 3, 224, 224)
        torch.testing.assert_close(pixels[0, 0, 0], torch.full((224, 224), (0.2 - mean[0]) / std))


@pytest.mark.parametrize(
    ("count", "wanted", "expected"),
    [
        (16, 4, [1, 5, 9, 13]),
        (10, 3, [1, 4, 7]),
        (5, 5, [0, 1, 2, 3, 4]),
        (2, 4, [0, 0, 1, 1]),
        (1, 3, [0, 0, 0]),
    ],
)
def test_the_middle_of_each_segment(count, wanted, expected):
    assert sample_segments(count, wanted) == expected


def test_training_takes_any_item_of_each_segment():
    drawn = np.array([sample_segments(12, 3, np.random.default_rng(seed)) for seed in range(200)])
    for segment in range(3):
        assert sorted(set(drawn[:, segment])) == list(range(4 * segment, 4 * segment + 4))


def test_text_is_cleaned():
    assert clean("  A dog,  barks -- it's\n LOUD!") == "a dog barks its loud"


def test_prompts(tokenizer):
    processor = ValorProcessor(tokenizer)
    retrieval = processor.prompt("retrieval", 2)
    assert retrieval["prompt_ids"].shape[0] == 2
    assert decode(retrieval["prompt_ids"][0]) == "[CLS] project language in common space [SEP]"
    qa = processor.prompt("qa", questions=["What is this?", "what?"])
    assert decode(qa["prompt_ids"][0]) == "[CLS] answer the question what is this [SEP]"
    assert qa["prompt_mask"].sum(1).tolist() == [8, 6]
    plain = ValorProcessor(tokenizer, use_task_prompt=False)
    assert plain.prompt("caption", 2) == {}
    question = plain.prompt("qa", questions=["What is this?"])
    assert decode(question["prompt_ids"][0]) == "[CLS] what is this [SEP]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("captions",), "unknown task 'captions', did you mean 'caption'"),
        (("qa",), "needs questions"),
        (("caption", 1, ["what?"]), "takes no questions"),
    ],
)
def test_bad_prompts_are_told(arguments, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        ValorProcessor(tokenizer).prompt(*arguments)


def test_log_mel_equals_a_slow_fbank():
    """Kaldi's recipe: mean off, pre-emphasis, Hann window, power spectrum, triangles on the mel scale."""
    rate, bands = 22050, 64
    t = np.arange(rate // 4) / rate
    wave = (0.3 * np.sin(2 * np.pi * 440 * t) + 0.1 * np.sin(2 * np.pi * 5000 * t) + 0.05).astype(np.float32)
    got = log_mel(wave)
    length, hop, fft = 551, 220, 1024
    assert got.shape == (bands, 1 + (len(wave) - length) // hop)

    def mel(hertz):
        return 1127 * math.log(1 + hertz / 700)

    low, high = mel(20), mel(rate / 2)
    step = (high - low) / (bands + 1)
    for frame in (0, 7):
        x = wave[frame * hop : frame * hop + length].astype(np.float64)
        x = x - x.mean()
        x = np.concatenate([[x[0] * (1 - 0.97)], x[1:] - 0.97 * x[:-1]])
        x = x * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / (length - 1)))
        power = np.abs(np.fft.rfft(x, fft)) ** 2
        for band in (0, 5, 20, 63):
            left, middle, right = (low + (band + i) * step for i in range(3))
            total = 0.0
            for k in range(fft // 2):
                m = mel(k * rate / fft)
                total += power[k] * max(
                    0.0, min((m - left) / (middle - left), (right - m) / (right - middle))
                )
            assert got[band, frame] == pytest.approx(math.log(max(total, 2**-23)), abs=2e-3)


def test_sound_is_cut_into_whole_clips():
    wave = np.random.default_rng(0).standard_normal(22050 * 6).astype(np.float32) * 0.1
    mel, clips = log_mel(wave), audio_clips(wave)
    assert clips.shape == (2, 64, 512)
    whole = clips.transpose(1, 0, 2).reshape(64, -1)
    np.testing.assert_allclose(whole[:, : mel.shape[1]], (mel + 4.2677393) / (2 * 4.5689974), rtol=1e-5)
    np.testing.assert_allclose(whole[:, mel.shape[1] :], 4.2677393 / (2 * 4.5689974), rtol=1e-5)
    assert audio_clips(wave[:10]).shape == (1, 64, 512)  # shorter than one window


def test_other_rates_sound_the_same(tokenizer):
    processor = ValorProcessor(tokenizer)
    waves = [
        (np.sin(2 * np.pi * 700 * np.arange(rate * 2) / rate).astype(np.float32), rate)
        for rate in (22050, 44100)
    ]
    values = processor(audios=waves, num_clips=1)["audio_values"][:, 0, :40, :190]
    assert (values[0] - values[1]).abs().median() < 0.05


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"videos": [[]]}, r"videos\[0\] has no frames"),
        ({"audios": [None, (np.zeros((2, 500), np.float32), 22050)]}, r"audios\[1\].*mono"),
        ({"audios": [(np.full(500, np.nan, np.float32), 22050)]}, r"audios\[0\].*finite"),
    ],
)
def test_bad_media_are_told(inputs, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        ValorProcessor(tokenizer)(**inputs)


def test_an_empty_waveform_is_missing_sound(tokenizer):
    out = ValorProcessor(tokenizer)(audios=[(np.zeros(0, np.float32), 22050)])
    assert out["audio_present"].tolist() == [False]
    assert out["audio_values"].shape == (1, 2, 64, 512)
    assert not out["audio_values"].any()


def test_save_and_load(tokenizer, tmp_path):
    ValorProcessor(tokenizer, image_size=32, use_task_prompt=False).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "processor_config.json").read_text())["image_size"] == 32
    again = ValorProcessor.from_pretrained(tmp_path)
    assert (again.image_size, again.use_task_prompt, again.mel_bands) == (32, False, 64)
    ids = again(text=["a dog"])["input_ids"][0]
    assert decode(ids) == "[CLS] a dog [SEP]"

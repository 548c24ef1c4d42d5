"""Sound as a picture for a vision tower, and the recipe's word for it."""

import numpy as np
import pytest
import torch
import transformers as tf

from hmmoe.backbones import Tower
from hmmoe.backbones.inputs import ImageInputs
from hmmoe.backbones.shared import MelPictures, shared_tower

RATE = 16000


def tone(pitch: float, seconds: float = 1.0, rate: int = RATE) -> tuple[np.ndarray, int]:
    return np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate).astype(np.float32), rate


def vision(size: int = 32) -> Tower:
    config = tf.ViTConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=size,
        patch_size=8,
    )
    return Tower(tf.ViTModel(config).eval(), ImageInputs(size), "image", 16)


def test_equal_to_the_filter_banks_of_ast():
    # The extractor's numpy path is Kaldi's filter bank; here with as many bands and its 10 ms.
    extractor = tf.ASTFeatureExtractor(num_mel_bins=128, max_length=128, mean=-4.0, std=3.0)
    wave, rate = tone(700)
    theirs = extractor((wave - wave.mean())[None], sampling_rate=rate, return_tensors="pt").input_values[0]
    ours = MelPictures(128, shift=10, mean=-4.0, std=3.0).picture(wave, rate)
    torch.testing.assert_close(ours[:, :98], theirs[:98].T, atol=1e-4, rtol=1e-4)


def test_a_second_fills_a_picture_and_pitch_is_its_height():
    pictures = MelPictures(64)([tone(300), tone(3000, rate=8000), tone(300, 0.5)])["pixel_values"]
    assert pictures.shape == (3, 3, 64, 64)
    assert torch.equal(pictures[:, 0], pictures[:, 2])
    height = pictures[:, 0].mean(-1).argmax(-1)  # the loudest band
    assert height[0] < height[1]
    assert height[2] == height[0]
    assert MelPictures(192).picture(*tone(300, 0.2))[:, 100:].abs().max() == 0  # padding


def test_the_tower_is_the_same_module_and_takes_the_pictures():
    towers = {"video": vision()}
    ear = shared_tower(towers, "video")
    assert ear.module is towers["video"].module
    assert ear.modality == "audio"
    assert ear.module(**ear.preprocess([tone(300)])).last_hidden_state.shape == (1, 17, 16)


def test_what_cannot_be_shared_is_named():
    towers = {"video": vision(), "speech": Tower(torch.nn.Identity(), None, "audio", 4)}
    with pytest.raises(
        ValueError, match="unknown stream in of, whose tower is shared, 'vidoe', did you mean"
    ):
        shared_tower(towers, "vidoe")
    with pytest.raises(ValueError, match="reads audio and cannot be shared"):
        shared_tower(towers, "speech")

"""Preprocessing: fixed shapes, right scale, and a resampler that keeps what both rates can hold."""

import numpy as np
import pytest
import torch
from PIL import Image

from hmmoe.backbones.inputs import ImageInputs, rgb
from hmmoe.backbones.resample import resample


@pytest.mark.parametrize(("have", "want"), [(8000, 16000), (16000, 8000), (44100, 16000), (48000, 16000)])
def test_resampling_keeps_a_tone(have, want):
    tone = np.sin(2 * np.pi * 440 * np.arange(have) / have).astype(np.float32)
    got = resample(tone, have, want)
    assert got.shape == (want,)
    assert got.dtype == np.float32
    exact = np.sin(2 * np.pi * 440 * np.arange(want) / want)
    np.testing.assert_allclose(got[want // 50 : -want // 50], exact[want // 50 : -want // 50], atol=1e-4)


def test_resampling_removes_what_the_lower_rate_cannot_hold():
    tone = np.sin(2 * np.pi * 6000 * np.arange(16000) / 16000).astype(np.float32)
    assert np.abs(resample(tone, 16000, 8000)[200:-200]).max() < 1e-3


@pytest.mark.parametrize("length", [1, 3, 1000])
def test_any_length_can_be_resampled(length):
    assert len(resample(np.ones(length, np.float32), 44100, 16000)) == -(-length * 160 // 441)


def test_images_of_any_kind_come_out_alike():
    grey = np.full((10, 20), 255, np.uint8)
    inputs = ImageInputs(8, (0.5,) * 3, (0.25,) * 3)
    for item in (grey, np.stack([grey] * 3, -1), Image.fromarray(grey)):
        pixels = inputs([item])["pixel_values"]
        assert pixels.shape == (1, 3, 8, 8)
        torch.testing.assert_close(pixels, torch.full_like(pixels, 2.0))


@pytest.mark.parametrize("item", [np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), "picture.png"])
def test_what_is_no_image_is_refused(item):
    with pytest.raises(ValueError, match="an image must be"):
        rgb(item)

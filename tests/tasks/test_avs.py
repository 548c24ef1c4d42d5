"""Segmentation scores against published-code values, a threshold-by-threshold reference, and empty masks."""

import math

import numpy as np
import pytest
import torch

from hmmoe.tasks.avs import mask_scores


def golden_video():
    random = np.random.RandomState(0)
    logits = torch.tensor(random.randn(5, 32, 32), dtype=torch.float32)
    masks = torch.tensor(random.rand(5, 32, 32) > 0.7, dtype=torch.float32)
    masks[2] = 0
    return logits, masks


def slow_scores(logits, masks):
    """The definition with loops over frames and thresholds; only sigmoid and thresholds are float32."""
    thresholds = torch.linspace(0, 1 - 1e-10, 255)
    jaccards, curves = [], []
    for frame, mask in zip(logits, masks, strict=True):
        p, g = torch.sigmoid(frame.float()), mask.bool()
        pred = p > 0.5
        if not g.any():
            jaccards.append((~pred).sum().item() / g.numel())
            continue
        jaccards.append((pred & g).sum().item() / ((pred | g).sum().item() + 1e-7))
        curve = []
        for t in thresholds:
            passed = p >= t
            tp = (passed & g).sum().item()
            precision, recall = tp / (passed.sum().item() + 1e-20), tp / g.sum().item()
            curve.append(1.3 * precision * recall / (0.3 * precision + recall) if tp else 0.0)
        curves.append(curve)
    mean_curve = [math.fsum(column) / len(curves) for column in zip(*curves, strict=True)]
    return {"mj": math.fsum(jaccards) / len(jaccards), "mf": max(mean_curve, default=0.0)}


def test_golden_values():
    logits, masks = golden_video()
    # Printed by the evaluation code of AVSBench on this video.
    assert mask_scores(logits, masks) == pytest.approx({"mj": 0.2850183, "mf": 0.3517198}, abs=1e-6)
    nothing = torch.full_like(logits, -5)
    assert mask_scores(nothing, masks) == pytest.approx({"mj": 0.2, "mf": 0.3513764}, abs=1e-6)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equal_to_the_slow_reference(scale, dtype):
    torch.manual_seed(int(scale * 10))
    logits = (scale * torch.randn(4, 17, 23)).to(dtype)
    masks = torch.rand(4, 17, 23) > 0.8
    masks[1] = False
    assert mask_scores(logits, masks) == pytest.approx(slow_scores(logits, masks), abs=1e-6)


def test_saturated_probabilities_meet_the_last_threshold():
    # linspace ends at exactly 1 in single precision; a certain pixel must still pass it.
    logits = torch.full((1, 2, 2), 200.0)
    masks = torch.ones(1, 2, 2)
    assert mask_scores(logits, masks) == pytest.approx({"mj": 1.0, "mf": 1.0}, abs=1e-6)


def test_empty_masks_score_the_silence_and_no_f():
    masks = torch.zeros(2, 4, 4)
    logits = torch.full((2, 4, 4), -1.0)
    logits[0, :2] = 1.0  # half of the first frame is predicted
    assert mask_scores(logits, masks) == pytest.approx({"mj": 0.75, "mf": 0.0}, abs=1e-6)


def test_the_maximum_is_per_video_over_the_mean_curve():
    # Each frame alone reaches F = 1, at thresholds that exclude each other; the mean curve cannot.
    logits = torch.tensor([[[-3.0, -5.0]], [[5.0, 3.0]]])
    masks = torch.tensor([[[1, 0]], [[1, 0]]])
    assert mask_scores(logits[:1], masks[:1])["mf"] == pytest.approx(1.0, abs=1e-6)
    assert mask_scores(logits[1:], masks[1:])["mf"] == pytest.approx(1.0, abs=1e-6)
    assert mask_scores(logits, masks)["mf"] < 0.9


def test_nan_logits_count_as_not_predicted():
    logits, masks = golden_video()
    logits[0] = math.nan
    low = logits.clone()
    low[0] = -math.inf
    scores, expected = mask_scores(logits, masks), mask_scores(low, masks)
    assert scores["mj"] == expected["mj"]
    assert scores["mf"] <= expected["mf"]  # -inf still passes the threshold 0, NaN passes none
    assert mask_scores(torch.full((1, 3, 3), math.nan), torch.ones(1, 3, 3)) == {"mj": 0.0, "mf": 0.0}


def test_wrong_input_is_named():
    video = torch.zeros(5, 8, 8)
    with pytest.raises(ValueError, match=r"logits \(5, 8, 8\) and masks \(5, 4, 4\)"):
        mask_scores(video, torch.zeros(5, 4, 4))
    with pytest.raises(ValueError, match=r"must have one shape \(T, H, W\)"):
        mask_scores(video[0], video[0])
    with pytest.raises(ValueError, match="0 and 255"):
        mask_scores(video, video + 255)

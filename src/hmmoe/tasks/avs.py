"""Audio-visual segmentation on AVSBench-object, S4 and MS3 (Zhou et al., ECCV 2022): the pixels that sound.

Scores of one video of T frames, from logits and 0/1 masks (T, H, W); P = sigmoid(logits), G = mask:

    MJ   per frame |[P > .5] & G| / (|[P > .5] | G| + 1e-7); a frame whose G is empty scores the share of its
         pixels that are not predicted; mean over frames
    MF   F(t) = 1.3 · precision · recall / (0.3 · precision + recall) of [P >= t], 0 where it is 0 / 0, at the
         255 thresholds linspace(0, 1 - 1e-10, 255); frames whose G is empty are left out; mean of the curves
         over the frames, then the maximum over t (per video, not per data set); 0 when every G is empty

A data set scores the mean over its videos; papers print it times 100.
"""

import torch
from torch import Tensor

THRESHOLDS = 255
BETA2 = 0.3  # weight of recall against precision


def mask_scores(logits: Tensor, masks: Tensor) -> dict[str, float]:
    """MJ and MF of one video, in single precision as the benchmark computes them.

    Args:
        logits: (T, H, W), before the sigmoid, any float type. NaN counts as not predicted.
        masks: (T, H, W), 0/1 or bool; T is what is scored (5 for a clip of AVSBench).

    Returns:
        `{"mj", "mf"}`, each in 0..1.

    Raises:
        ValueError: the shapes differ or are not (T, H, W), or masks holds anything but 0 and 1.
    """
    if logits.ndim != 3 or logits.shape != masks.shape or not logits.numel():
        raise ValueError(
            f"logits {tuple(logits.shape)} and masks {tuple(masks.shape)} must have one shape (T, H, W), "
            "resize the logits to the size of the masks"
        )
    if not ((masks == 0) | (masks == 1)).all():
        raise ValueError("masks holds other values than 0 and 1, read a picture of 0 and 255 as picture > 0")
    probability = logits.detach().float().sigmoid().flatten(1)  # (T, H·W)
    true = masks.to(logits.device).bool().flatten(1)  # (T, H·W)
    return {"mj": _jaccard(probability, true), "mf": _f_measure(probability, true)}


def _jaccard(probability: Tensor, true: Tensor) -> float:
    pred = probability > 0.5
    empty = ~true.any(1)  # (T,)
    hit = torch.where(empty, (~pred).sum(1), (pred & true).sum(1))
    union = torch.where(empty, true.shape[1], (pred | true).sum(1))
    return (hit / (union + 1e-7)).mean().item()


def _f_measure(probability: Tensor, true: Tensor) -> float:
    filled = true.any(1)
    if not filled.any():
        return 0.0
    probability, true = probability[filled], true[filled]
    thresholds = torch.linspace(0, 1 - 1e-10, THRESHOLDS, device=probability.device)
    # A pixel passes the thresholds 0..k-1, so one histogram of k replaces 255 comparisons of the picture.
    passed = torch.bucketize(probability, thresholds, right=True)  # (T, H·W), 0..255
    passed = passed.masked_fill(probability.isnan(), 0)
    tp = _passing(passed, true)  # (T, 255)
    predicted = _passing(passed, torch.ones_like(true))
    precision = tp / (predicted + 1e-20)
    recall = tp / true.sum(1, keepdim=True)
    f = (1 + BETA2) * precision * recall / (BETA2 * precision + recall)
    return f.nan_to_num(0.0).mean(0).max().item()


def _passing(passed: Tensor, counted: Tensor) -> Tensor:
    """How many of the counted pixels of each frame pass each threshold: (T, 255)."""
    histogram = torch.zeros(len(passed), THRESHOLDS + 1, device=passed.device)
    histogram.scatter_add_(1, passed, counted.float())
    at_least = histogram.flip(1).cumsum(1).flip(1)  # pixels that pass k thresholds or more
    return at_least[:, 1:]

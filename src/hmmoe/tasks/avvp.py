"""Audio-visual video parsing on LLP (Tian, Li and Xu, ECCV 2020): what is heard, what is seen, and when.

A video is 10 seconds; what is heard and what is seen are labelled apart, as 0/1 tables (25, 10) of class and
second.

    F        = 2 TP / (2 TP + FP + FN), per class, then the mean over the classes that are predicted or true;
               a video with no such class scores 1
    segment    TP, FP and FN are seconds
    event      an event is a run of positive seconds of one class; a predicted event is a TP if its IoU with
               some true event is at least 0.5 and else an FP; a true event that no prediction meets is an FN

    audio, visual     the F of that modality
    audio_visual      F of prediction_a * prediction_v against truth_a * truth_v
    type              (audio + visual + audio_visual) / 3
    event             TP, FP and FN of audio and visual are added per class before F is taken

Scores are per video and then averaged over videos; papers print them times 100.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hmmoe.data.sets.llp import CLASSES, SECONDS

OVERLAP = 0.5  # IoU from which a predicted event counts as found

Counts = NDArray[np.int64]
Scores = dict[str, dict[str, float]]


def parsing_scores(
    pred_audio: ArrayLike, pred_visual: ArrayLike, true_audio: ArrayLike, true_visual: ArrayLike
) -> Scores:
    """F scores of one video at the segment and at the event level.

    Args:
        pred_audio, pred_visual, true_audio, true_visual: 0/1 tables (25, 10), class by second.

    Returns:
        `{"segment": {"audio", "visual", "audio_visual", "type", "event"}, "event": {the same}}`, in 0..1.

    Raises:
        ValueError: a table has another shape or holds anything but 0 and 1.
    """
    pa, pv = _table("pred_audio", pred_audio), _table("pred_visual", pred_visual)
    ta, tv = _table("true_audio", true_audio), _table("true_visual", true_visual)
    scores = {}
    for level, count in (("segment", _count_segments), ("event", _count_events)):
        audio, visual = count(pa, ta), count(pv, tv)
        a, v, av = _f_score(audio), _f_score(visual), _f_score(count(pa & pv, ta & tv))
        scores[level] = {
            "audio": a,
            "visual": v,
            "audio_visual": av,
            "type": (a + v + av) / 3,
            "event": _f_score(audio + visual),
        }
    return scores


def mean_scores(videos: Iterable[Mapping[str, Mapping[str, float]]]) -> Scores:
    """The mean over videos of what `parsing_scores` returns: the score of a data set, in 0..1.

    Raises:
        ValueError: there is no video.
    """
    videos = list(videos)
    if not videos:
        raise ValueError("videos is empty: give the scores of at least one video")
    return {
        level: {name: float(np.mean([video[level][name] for video in videos])) for name in names}
        for level, names in videos[0].items()
    }


def _table(name: str, values: ArrayLike) -> NDArray[np.bool_]:
    array = np.asarray(values)
    if array.shape != (len(CLASSES), SECONDS):
        raise ValueError(
            f"{name} has the shape {array.shape}, give (classes, seconds) = ({len(CLASSES)}, {SECONDS})"
        )
    if not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name} holds other values than 0 and 1, threshold the probabilities first")
    return array.astype(bool)


def _f_score(counts: Counts) -> float:
    """Mean F over the classes that occur; counts (25, 3) are TP, FP, FN."""
    tp, fp, fn = counts[counts.any(axis=1)].T
    return float(np.mean(2 * tp / (2 * tp + fp + fn))) if len(tp) else 1.0


def _count_segments(pred: NDArray[np.bool_], true: NDArray[np.bool_]) -> Counts:
    return np.stack([(pred & true).sum(1), (pred & ~true).sum(1), (~pred & true).sum(1)], axis=1)


def _count_events(pred: NDArray[np.bool_], true: NDArray[np.bool_]) -> Counts:
    counts = np.zeros((len(pred), 3), dtype=np.int64)
    for row, predicted, actual in zip(counts, map(_runs, pred), map(_runs, true), strict=True):
        met = np.array([[_iou(p, t) >= OVERLAP for t in actual] for p in predicted], dtype=bool)
        met = met.reshape(len(predicted), len(actual))
        found = int(met.any(axis=1).sum())
        row[:] = found, len(predicted) - found, len(actual) - int(met.any(axis=0).sum())
    return counts


def _runs(row: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The runs of True as half-open intervals (start, stop)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], row, [False]])))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def _iou(one: tuple[int, int], two: tuple[int, int]) -> float:
    shared = max(0, min(one[1], two[1]) - max(one[0], two[0]))
    return shared / ((one[1] - one[0]) + (two[1] - two[0]) - shared)

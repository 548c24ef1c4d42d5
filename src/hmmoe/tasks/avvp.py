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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from hmmoe.data.sets.base import Clip
from hmmoe.data.sets.llp import CLASSES, EVAL_FILES, SECONDS, LLPSet, place
from hmmoe.options import about
from hmmoe.tasks.parsing_head import ParsingHead
from hmmoe.tasks.seconds import ClipsOptions, ClipsTask, runs, span

__all__ = ["AVVP", "CLASSES", "SECONDS", "mean_scores", "parsing_scores"]

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
    for row, predicted, actual in zip(counts, map(_intervals, pred), map(_intervals, true), strict=True):
        met = np.array([[_iou(p, t) >= OVERLAP for t in actual] for p in predicted], dtype=bool)
        met = met.reshape(len(predicted), len(actual))
        found = int(met.any(axis=1).sum())
        row[:] = found, len(predicted) - found, len(actual) - int(met.any(axis=0).sum())
    return counts


def _intervals(row: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The runs of True as half-open intervals (start, stop)."""
    return [(start, stop) for there, start, stop in runs(row) if there]


def _iou(one: tuple[int, int], two: tuple[int, int]) -> float:
    shared = max(0, min(one[1], two[1]) - max(one[0], two[0]))
    return shared / ((one[1] - one[0]) + (two[1] - two[0]) - shared)


@dataclass
class AVVPOptions(ClipsOptions):
    head: str = field(
        default="hybrid",
        metadata=about(
            "before the multiple-instance pooling: a linear layer, a hidden one, or HAN's hybrid attention",
            choices=("linear", "mlp", "hybrid"),
        ),
    )


class AVVP(ClipsTask):
    """Ten pictures and ten seconds of sound to what is heard and what is seen in each second.

    Training rows tell the classes of the whole video, (25,); the others what is heard and what is seen, (2,
    25, 10).
    """

    name = "avvp"
    metric = "segment_type"
    data: ClassVar = LLPSet()
    options_type = AVVPOptions

    @cached_property
    def rows(self) -> dict[str, list[tuple[str, list[int]]]]:
        """Split -> filename and classes of the whole video."""
        return {split: self.data.rows(self.folder(), split) for split in self.data.official}

    @cached_property
    def events(self) -> list[dict[str, list[tuple[int, int, int]]]]:
        """For audio and visual: filename -> its events."""
        return [self.data.events(self.folder(), kind) for kind in EVAL_FILES]

    def size(self, split: str) -> int:
        if split != "train":
            _ = self.events  # what is wrong with them is said before training, not at the first validation
        return len(self.rows[split])

    def read(self, split: str, row: int) -> dict[str, Any]:
        file, classes = self.rows[split][row]
        ends = 0
        if split == "train":
            label = np.zeros(len(CLASSES), np.int64)
            label[classes] = 1
        else:
            told = [events.get(file, []) for events in self.events]
            label = np.stack([_event_table(events) for events in told])
            ends = max((offset for events in told for _, _, offset in events), default=0)
        return {**self.media(Clip(file, place(file), ends)), "label": label}

    def head(self, widths: Mapping[str, int]) -> nn.Module:
        return ParsingHead(widths, len(CLASSES), self.options.head)

    def predicted(self, logits: Mapping[str, Tensor]) -> NDArray[np.bool_]:
        """What is heard and seen (B, 2, 25, 10): classes of the video and of the second, each p >= .5."""
        whole = (logits["whole"].float() >= 0.5)[:, :, None]  # (B, 25, 1)
        tables = [((logits[m].float().sigmoid() >= 0.5).mT & whole).cpu().numpy() for m in ("audio", "video")]
        return np.stack(tables, 1)

    def metrics(self, logits: Mapping[str, Tensor], labels: Tensor) -> dict[str, float]:
        """All scores in percent, `segment_audio` to `event_event`; see the module."""
        videos = zip(self.predicted(logits), labels.cpu().numpy(), strict=True)
        scores = mean_scores(parsing_scores(*pred, *true) for pred, true in videos)
        return {f"{level}_{name}": 100 * v for level, names in scores.items() for name, v in names.items()}

    def result(self, split: str, rows: Sequence[int], logits: Any) -> dict[str, str | bytes]:
        """Two files in the form of AVVP_eval_audio.csv and AVVP_eval_visual.csv."""
        files: dict[str, str | bytes] = {}
        for kind, tables in zip(EVAL_FILES, self.predicted(logits).swapaxes(0, 1), strict=True):
            lines = ["filename\tonset\toffset\tevent_labels"]
            for row, table in zip(rows, tables, strict=True):
                file = self.rows[split][row][0]
                lines += [f"{file}\t{a}\t{b}\t{name}" for name, a, b in _named_events(table)]
            files[f"AVVP_pred_{kind}.csv"] = "\n".join(lines) + "\n"
        return files

    def answer(self, logits: Any) -> NDArray[np.bool_]:
        return self.predicted({k: v[None] for k, v in logits.items()})[0]

    def words(self, label: Any) -> str:
        """ "heard: 0-3 Speech; seen: 0-9 Dog", or the classes where only these are known."""
        if np.ndim(label) == 1:
            return ", ".join(CLASSES[c] for c in np.flatnonzero(label))
        parts = []
        for what, table in zip(("heard", "seen"), label, strict=True):
            events = [f"{span(a, b)} {name}" for name, a, b in _named_events(table)]
            parts.append(f"{what}: {', '.join(events) or 'nothing'}")
        return "; ".join(parts)


def _event_table(events: Iterable[tuple[int, int, int]]) -> NDArray[np.int64]:
    """0/1 (25, 10) of (class, onset, offset)."""
    table = np.zeros((len(CLASSES), SECONDS), np.int64)
    for c, onset, offset in events:
        table[c, onset:offset] = 1
    return table


def _named_events(table: NDArray[Any]) -> list[tuple[str, int, int]]:
    """(class, onset, offset) of every event in a table (25, 10)."""
    return [
        (name, start, stop)
        for name, row in zip(CLASSES, table, strict=True)
        for start, stop in _intervals(row)
    ]

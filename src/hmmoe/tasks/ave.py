"""Audio-visual event localisation on AVE (Tian et al., ECCV 2018): what is both seen and heard, and when.

A video is ten segments of one second; each is one of 28 events or background (id 28). `Annotations.txt`
holds a row `Category&VideoID&Quality&StartTime&EndTime` per video (with or without that header), and all
labels follow from it: the id of a category is the order in which it first appears, and its seconds are
[StartTime, EndTime).

    score = segments labelled right / all segments, counted over the whole data set

Two kinds of heads answer: a class per segment (29-way), or, as in CMBS (Xia and Zhao, CVPR 2022), one event
per video and the relevance of each segment; `decode` turns the second into the first.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hmmoe.data.sets.ave import CLASSES, HEADER, SECONDS, Annotation, AVESet, read_annotations
from hmmoe.options import about
from hmmoe.tasks.event_head import EventHead
from hmmoe.tasks.heads import PooledHead
from hmmoe.tasks.seconds import ClipsOptions, ClipsTask, runs, span

__all__ = [
    "AVE",
    "CLASSES",
    "HEADER",
    "Annotation",
    "decode",
    "read_annotations",
    "rebuild_labels",
    "segment_accuracy",
]


def rebuild_labels(rows: Sequence[Annotation]) -> tuple[Tensor, tuple[str, ...]]:
    """The segment labels that labels.h5 holds, from the annotations alone.

    Returns:
        Class ids (len(rows), 10), background = number of classes; and the classes in the order of their
        ids, which for the official file is `CLASSES`. Give all rows of the file, not those of one split:
        ids follow the order.
    """
    classes = tuple(dict.fromkeys(row.category for row in rows))
    labels = torch.full((len(rows), SECONDS), len(classes))
    for label, row in zip(labels, rows, strict=True):
        label[row.start : row.stop] = classes.index(row.category)
    return labels, classes


def decode(relevance: Tensor, events: Tensor) -> Tensor:
    """Segment classes from a head that gives one event per video and a relevance per segment.

    Args:
        relevance: (B, T) logits; a segment belongs to the event where their sigmoid is above one half.
        events: (B, C) logits over the events, background not among them.

    Returns:
        (B, T) class ids: the video's likeliest event where it is relevant, and C, the background, elsewhere.

    Raises:
        ValueError: the shapes are not (B, T) and (B, C).
    """
    if relevance.ndim != 2 or events.ndim != 2 or len(relevance) != len(events):
        raise ValueError(
            f"relevance {tuple(relevance.shape)} and events {tuple(events.shape)} "
            "must be (videos, segments) and (videos, classes)"
        )
    event = events.argmax(1, keepdim=True)  # (B, 1)
    return torch.where(relevance.sigmoid() > 0.5, event, events.shape[1])


def segment_accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Share of segments labelled right, in 0..1, counted over all segments and not averaged over batches.

    Args:
        predicted, labels: class ids (N, T) of all videos.

    Raises:
        ValueError: the shapes differ or there is no segment.
    """
    if predicted.shape != labels.shape or predicted.ndim != 2 or not labels.numel():
        raise ValueError(
            f"predicted {tuple(predicted.shape)} and labels {tuple(labels.shape)} must have one shape "
            "(videos, segments) with at least one segment, take the argmax of logits first"
        )
    return (predicted == labels.to(predicted.device)).sum().item() / labels.numel()


@dataclass
class AVEOptions(ClipsOptions):
    head: str = field(
        default="linear",
        metadata=about(
            "a class per segment, linear or with one hidden layer; or event and relevance, as CMBS",
            choices=("linear", "mlp", "event"),
        ),
    )
    supervision: str = field(
        default="full",
        metadata=about(
            "what training knows: every segment's class, or weakly the video's event alone",
            choices=("full", "weak"),
        ),
    )


class AVE(ClipsTask):
    """Ten pictures and ten seconds of sound to the event of each second; `root` in any layout of `AVESet`."""

    name = "ave"
    metric = "accuracy"
    data: ClassVar = AVESet()
    options_type = AVEOptions

    @cached_property
    def annotations(self) -> tuple[list[Annotation], dict[str, list[int]]]:
        return self.data.rows(self.folder())

    @cached_property
    def labels(self) -> tuple[Tensor, tuple[str, ...]]:
        """Class ids (rows of Annotations.txt, 10) and the classes; from labels.h5 where there is one."""
        labels, classes = rebuild_labels(self.annotations[0])
        stored = self.data.stored_labels(self.folder())
        if stored is not None:
            if stored.shape != (*labels.shape, len(classes) + 1):
                raise ValueError(
                    f"labels.h5 has the shape {stored.shape}, Annotations.txt makes it "
                    f"{(*labels.shape, len(classes) + 1)}; they are of different data sets"
                )
            labels = torch.from_numpy(stored.argmax(-1))
        return labels, classes

    @property
    def classes(self) -> tuple[str, ...]:
        return self.labels[1]

    def size(self, split: str) -> int:
        return len(self.annotations[1][split])

    def read(self, split: str, row: int) -> dict[str, Any]:
        number = self.annotations[1][split][row]
        label = self.labels[0][number].numpy()
        if split == "train" and self.options.supervision == "weak":
            event = self.annotations[0][number].category
            label = np.full(SECONDS, self.classes.index(event))  # when it happens is not told
        return {**self.media(self.data.clip(self.annotations[0][number])), "label": label}

    def head(self, widths: Mapping[str, int]) -> nn.Module:
        weak = self.options.supervision == "weak"
        if self.options.head == "event":
            return EventHead(widths, len(self.classes), weak)
        kind = WeakSegments if weak else PooledHead
        return kind(widths, len(self.classes) + 1, self.options.head)

    def predicted(self, logits: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Class ids (B, 10) from the logits of either head."""
        if isinstance(logits, Mapping):
            return decode(logits["relevance"], logits["event"])
        return logits.argmax(-1)

    def metrics(self, logits: Tensor | Mapping[str, Tensor], labels: Tensor) -> dict[str, float]:
        return {"accuracy": 100 * segment_accuracy(self.predicted(logits), labels)}

    def result(self, split: str, rows: Sequence[int], logits: Any) -> dict[str, str | bytes]:
        """A line as in Annotations.txt for every predicted run of an event."""
        annotations, splits = self.annotations
        lines = [HEADER]
        for row, labels in zip(rows, self.predicted(logits).tolist(), strict=True):
            video = annotations[splits[split][row]].video
            lines += [
                f"{self.classes[c]}&{video}&predicted&{start}&{stop}"
                for c, start, stop in runs(labels)
                if c < len(self.classes)
            ]
        return {f"{split}Set.txt": "\n".join(lines) + "\n"}

    def answer(self, logits: Any) -> list[int]:
        batch = {k: v[None] for k, v in logits.items()} if isinstance(logits, Mapping) else logits[None]
        return self.predicted(batch)[0].tolist()

    def words(self, label: Any) -> str:
        """Events with their seconds: "0-5 Bark, 6-9 background"."""
        names = (*self.classes, "background")
        return ", ".join(f"{span(a, b)} {names[c]}" for c, a, b in runs(label))


class WeakSegments(PooledHead):
    """A class per segment learned from the video's class: -log mean_t softmax(logits_t) (Tian et al.)."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean over the batch: logits (B, T, C + 1), labels (B, T), whose lowest id is the video's event."""
        steps = logits.float().log_softmax(-1)  # (B, T, C + 1)
        return F.nll_loss(steps.logsumexp(1) - math.log(steps.shape[1]), labels.amin(1))

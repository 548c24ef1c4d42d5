"""Audio-visual event localisation on AVE (Tian et al., ECCV 2018): what is both seen and heard, and when.

A video is ten segments of one second; each is one of 28 events or background (id 28). `Annotations.txt`
holds a row `Category&VideoID&Quality&StartTime&EndTime` per video (with or without that header), and all
labels follow from it: the id of a category is the order in which it first appears, and its seconds are
[StartTime, EndTime).

    score = segments labelled right / all segments, counted over the whole data set

Two kinds of heads answer: a class per segment (29-way), or, as in CMBS (Xia and Zhao, CVPR 2022), one event
per video and the relevance of each segment; `decode` turns the second into the first.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hmmoe.data.sets.ave import CLASSES, HEADER, SECONDS, Annotation, read_annotations

__all__ = [
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

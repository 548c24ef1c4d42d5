"""Audio-visual event localisation on AVE (Tian et al., ECCV 2018): what is both seen and heard, and when.

A video is ten segments of one second; each is one of 28 events or background (id 28). `Annotations.txt`
holds a row `Category&VideoID&Quality&StartTime&EndTime` per video (with or without that header), and all
labels follow from it: the id of a category is the order in which it first appears, and its seconds are
[StartTime, EndTime).

    score = segments labelled right / all segments, counted over the whole data set

Two kinds of heads answer: a class per segment (29-way), or, as in CMBS (Xia and Zhao, CVPR 2022), one event
per video and the relevance of each segment; `decode` turns the second into the first.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CLASSES = (
    "Church bell",
    "Male speech, man speaking",
    "Bark",
    "Fixed-wing aircraft, airplane",
    "Race car, auto racing",
    "Female speech, woman speaking",
    "Helicopter",
    "Violin, fiddle",
    "Flute",
    "Ukulele",
    "Frying (food)",
    "Truck",
    "Shofar",
    "Motorcycle",
    "Acoustic guitar",
    "Train horn",
    "Clock",
    "Banjo",
    "Goat",
    "Baby cry, infant cry",
    "Bus",
    "Chainsaw",
    "Cat",
    "Horse",
    "Toilet flush",
    "Rodents, rats, mice",
    "Accordion",
    "Mandolin",
)
SECONDS = 10
HEADER = "Category&VideoID&Quality&StartTime&EndTime"


@dataclass(frozen=True)
class Annotation:
    """One row of Annotations.txt; the event fills the seconds [start, stop), none if they are equal."""

    category: str
    video: str
    quality: str
    start: int
    stop: int


def read_annotations(lines: Iterable[str]) -> list[Annotation]:
    """The rows of Annotations.txt, in order; the header and blank lines are passed over.

    Raises:
        ValueError: a line has not five fields, or its times are not 0 <= start <= stop <= 10. Equal times are
            allowed: one row of the official file has them, and the official labels call it all background.
    """
    rows = []
    for number, line in enumerate(lines, start=1):
        line = line.strip().lstrip("\ufeff")
        if not line or line == HEADER:
            continue
        fields = line.split("&")
        if len(fields) != 5 or not (fields[3].isdecimal() and fields[4].isdecimal()):
            raise ValueError(
                f"Annotations line {number} is {line!r}, it should read {HEADER} with whole seconds"
            )
        start, stop = int(fields[3]), int(fields[4])
        if not start <= stop <= SECONDS:
            raise ValueError(
                f"Annotations line {number} sets the event to {start}..{stop}, "
                f"it should be 0 <= start <= stop <= {SECONDS} seconds"
            )
        rows.append(Annotation(fields[0], fields[1], fields[2], start, stop))
    return rows


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

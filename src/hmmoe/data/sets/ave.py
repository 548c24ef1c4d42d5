"""AVE (Tian et al., ECCV 2018): 4,143 ten-second clips of 4,097 videos, one event each, at YouTube's mercy.

`Annotations.txt` holds a row `Category&VideoID&Quality&StartTime&EndTime` per clip (with or without that
header). The splits are `trainSet.txt`, `valSet.txt`, `testSet.txt` with such rows as the data set comes, or
`train_order.h5`, `val_order.h5`, `test_order.h5` with row numbers as LAVISH, DG-SCT and AVMoE use it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from hmmoe.data.sets.base import Clip, DataSet, find_file, gathered
from hmmoe.errors import unknown

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


class AVESet(DataSet):
    """See the module."""

    name = "ave"
    title = "AVE"
    frames = ("video_frames/{id}", "AVE/frames/{id}", "frames/{id}", "data/AVE/frames/{id}")
    picture = "{number:04d}.jpg"
    audio = ("raw_audio/{id}.wav", "AVE/wave/{id}.npy", "wave/{id}.npy", "data/AVE/wave/{id}.npy")
    video = ("AVE/{id}.mp4", "AVE_Dataset/AVE/{id}.mp4", "video/{id}.mp4", "videos/{id}.mp4")
    times: ClassVar = tuple(second + 0.5 for second in range(SECONDS))
    seconds = SECONDS
    official: ClassVar = {"train": 3339, "validation": 402, "test": 402}
    inside: ClassVar = ("", "AVE_Dataset", "data", "data/AVE", "AVE")

    def annotations(self, root: Path) -> list[Path]:
        table = find_file(root, "the list of AVE's events", ["Annotations.txt"], self.inside)
        return [table, *(self._split_file(root, split) for split in SPLIT_FILES)]

    def rows(self, root: Path) -> tuple[list[Annotation], dict[str, list[int]]]:
        """All annotations, and split -> the numbers of its rows among them.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file cannot be read, a split names a row that is not there or is in another split
                too, or a category is unknown where most are AVE's own.
        """
        table = find_file(root, "the list of AVE's events", ["Annotations.txt"], self.inside)
        annotations = _read(table)
        _check_categories(annotations, table)
        splits = {split: self._numbers(root, split, annotations) for split in SPLIT_FILES}
        _check_apart(annotations, splits)
        return annotations, splits

    def clips(self, root: Path) -> list[Clip]:
        annotations, splits = self.rows(root)
        return gathered(
            replace(self.clip(annotations[number]), rows={split: 1})
            for split, numbers in splits.items()
            for number in numbers
        )

    def clip(self, annotation: Annotation) -> Clip:
        """The clip that an annotation is of."""
        return Clip(annotation.video, {"id": annotation.video}, annotation.stop)

    def stored_labels(self, root: Path) -> np.ndarray | None:
        """`avadataset` of labels.h5, one-hot (rows, 10, classes + 1); None where there is no such file."""
        try:
            file = find_file(root, "AVE's labels", ["labels.h5"], self.inside)
        except FileNotFoundError:
            return None
        return h5_table(file, "avadataset")

    def _split_file(self, root: Path, split: str) -> Path:
        return find_file(root, f"AVE's {split} rows", SPLIT_FILES[split], self.inside)

    def _numbers(self, root: Path, split: str, annotations: list[Annotation]) -> list[int]:
        file = self._split_file(root, split)
        if file.suffix == ".h5":
            numbers = [int(number) for number in h5_table(file, "order")]
            for number in numbers:
                if not 0 <= number < len(annotations):
                    raise ValueError(
                        f"{file} names row {number}, but Annotations.txt has {len(annotations)} rows"
                    )
            return numbers
        known = {a: number for number, a in reversed(list(enumerate(annotations)))}
        numbers = []
        for line, row in enumerate(_read(file), start=1):
            if row not in known:
                raise ValueError(f"{file} row {line} ({row.category}, {row.video}) is not in Annotations.txt")
            numbers.append(known[row])
        return numbers


SPLIT_FILES = {
    "train": ("trainSet.txt", "train_order.h5"),
    "validation": ("valSet.txt", "val_order.h5"),
    "test": ("testSet.txt", "test_order.h5"),
}


def _read(file: Path) -> list[Annotation]:
    try:
        return read_annotations(file.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text: {error}") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def h5_table(file: Path, name: str) -> np.ndarray:
    """The data set `name` of an HDF5 file.

    Raises:
        ValueError: it has none, is damaged, or h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise ValueError(
            f"{file} needs the package h5py: pip install h5py; or remove it, and put the data set's own "
            "trainSet.txt, valSet.txt and testSet.txt beside Annotations.txt"
        ) from None
    try:
        with h5py.File(file, "r") as content:
            return content[name][()]
    except (OSError, KeyError) as error:
        raise ValueError(f"{file} has no readable data set {name!r}: {error}") from error


def _check_categories(annotations: Sequence[Annotation], file: Path) -> None:
    """Other data sets in this layout have categories of their own; an odd one among AVE's is a slip."""
    names = dict.fromkeys(a.category for a in annotations)
    strange = [name for name in names if name not in CLASSES]
    if 0 < len(strange) < len(names) / 2:
        raise ValueError(f"{file}: {unknown('category', strange[0], CLASSES)}")


def _check_apart(annotations: Sequence[Annotation], splits: Mapping[str, Sequence[int]]) -> None:
    seen: dict[int, str] = {}
    for split, numbers in splits.items():
        for number in numbers:
            if seen.setdefault(number, split) != split:
                raise ValueError(
                    f"row {number} of Annotations.txt ({annotations[number].video}) is in the splits "
                    f"{seen[number]} and {split}; it should be in one"
                )

"""NLVR2 as a task: is the sentence true of the two photographs?

    logits = W [s(left), s(right), s(text)],  s the normalised mean of a stream's tokens

Official files `train.json`, `dev.json`, `test1.json` (test-P), one JSON object a line, and the photographs
`dev-850-0-img0.png`, `dev-850-0-img1.png`; those of the training set are in a folder per `directory`.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor, nn

from hmmoe.data.entries import read_lines, take
from hmmoe.data.media import MediaError, decode_image, png
from hmmoe.data.sets.base import find_file
from hmmoe.tasks.base import Task, part
from hmmoe.tasks.items import ItemsHead
from hmmoe.tasks.nlvr2 import group_of, nlvr2_scores
from hmmoe.tasks.places import place, row_at

FILES = {"train": "train", "validation": "dev", "test": "test1"}
INSIDE = ("", "data", "nlvr2/data", "nlvr/nlvr2/data", "annotations")
IMAGES = ("images/{}", "{}", "nlvr2/images/{}")
WORDS = ("false", "true")


class Example(NamedTuple):
    """One sentence about one pair; `directory` is empty outside the training set."""

    identifier: str
    sentence: str
    label: int
    directory: str

    def picture(self, side: int) -> str:
        """File name of the left (0) or right (1) photograph."""
        return f"{self.identifier.rpartition('-')[0]}-img{side}.png"


class NLVR2(Task):
    """Left and right photograph and a sentence; the label is (true or false, the row's number)."""

    name = "nlvr2"
    streams: ClassVar = {"left": "image", "right": "image", "text": "text"}
    metric = "accuracy"

    @cached_property
    def examples(self) -> dict[str, list[Example]]:
        """Split -> its examples in the order of the file."""
        return {split: self._read(split) for split in FILES}

    def _read(self, split: str) -> list[Example]:
        file = find_file(self.folder(), f"NLVR2's {split} examples", [f"{FILES[split]}.json"], INSIDE)
        found: dict[str, Example] = {}
        for where, entry in read_lines(file):
            identifier, sentence, label = take(entry, ["identifier", "sentence", "label"], where)
            if str(label).lower() not in WORDS:
                raise MediaError(f"{where} has the label {label!r}, it should be True or False")
            try:
                group_of(identifier)
            except ValueError as error:
                raise MediaError(f"{where}: {error}") from None
            if identifier in found:
                raise MediaError(f"{where} holds {identifier} a second time")
            directory = str(entry.get("directory", ""))
            found[identifier] = Example(identifier, sentence, WORDS.index(str(label).lower()), directory)
        if not found:
            raise MediaError(f"there are no examples in {file}")
        return list(found.values())

    def size(self, split: str) -> int:
        return len(self.examples[split])

    def read(self, split: str, row: int) -> dict[str, Any]:
        example = self.examples[split][row]
        folder = self._images(split, example)
        sides = {side: folder / example.picture(i) for i, side in enumerate(("left", "right"))}
        pictures = {
            side: decode_image(file, f"{file} of example {example.identifier}")
            for side, file in sides.items()
        }
        return {**pictures, "text": example.sentence, "label": np.array([example.label, place(split, row)])}

    def _images(self, split: str, example: Example) -> Path:
        """The folder of the example's photographs, or where it should be."""
        base = next((f for f in self._image_folders(split) if f.is_dir()), self.folder() / FILES[split])
        below = base / example.directory
        return below if example.directory and below.is_dir() else base

    def _image_folders(self, split: str) -> list[Path]:
        return [self.folder() / pattern.format(FILES[split]) for pattern in IMAGES]

    def head(self, widths: Mapping[str, int]) -> nn.Module:
        return ItemsHead(widths, 2, self.options.head)

    def metrics(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Accuracy, and consistency over sentences, in percent."""
        rows = [row_at(number) for number in labels[:, 1].tolist()]
        identifiers = [self.examples[split][row].identifier for split, row in rows]
        scores = nlvr2_scores(logits.argmax(-1).tolist(), labels[:, 0].tolist(), identifiers)
        return {name: 100 * score for name, score in scores.items()}

    def result(self, split: str, rows: Sequence[int], logits: Tensor) -> dict[str, str | bytes]:
        """The CSV that the official metrics.py reads: identifier and judgement."""
        examples = self.examples[split]
        lines = [
            f"{examples[row].identifier},{WORDS[judged]}\n"
            for row, judged in zip(rows, logits.argmax(-1).tolist(), strict=True)
        ]
        return {f"{FILES[split]}_predictions.csv": "".join(lines)}

    def show(self, row: Mapping[str, Any], logits: Tensor | None = None) -> dict[str, Any]:
        pictures = [part(side, "png", png(row[side])) for side in ("left", "right")]
        return {
            "parts": [*pictures, part("text", "text", row["text"])],
            "target": None if row["label"] is None else WORDS[row["label"][0]],
            "prediction": None if logits is None else WORDS[int(logits.argmax())],
        }

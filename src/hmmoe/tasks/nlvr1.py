"""NLVR (Suhr et al., ACL 2017) on the pack `nlvr_v1`: is the sentence true of a picture of three boxes?

    precision     pictures judged right / all pictures; every example has six, its boxes in each order
    consistency   groups judged right as a whole / all groups; a group is one sentence and its four examples

The pack has no training labels: training is on the official dev set and the test on test-P, which checks the
reading and the metric and is no result on NLVR. Identifiers `n-m` give the label away (m < 2 is true for nine
in ten), so neither they nor the order of the file may be seen by a model; here n alone is used, to hold out
whole groups and to judge consistency.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from hmmoe.data.media import MediaError, decode_image, png
from hmmoe.data.tables import table
from hmmoe.tasks.base import Task, part
from hmmoe.tasks.items import ItemsHead
from hmmoe.tasks.places import place, row_at

BOX, STEP, BOXES = 100, 150, 3  # pixels of a box and from one to the next
WORDS = ("false", "true")


class NLVR1(Task):
    """Three boxes (100 x 100) and a sentence; the label is (true or false, the row's number).

    Validation is a tenth of the groups of the dev set, always the same.
    """

    name = "nlvr_v1"
    streams: ClassVar = {"image": "image", "text": "text"}
    folded = ("image",)
    metric = "precision"

    @cached_property
    def tables(self) -> dict[str, Any]:
        """Split -> its pictures, with their `group`."""
        frames = {}
        for split in ("dev", "test"):
            frame = table(self.folder() / f"{split}.parquet").copy()
            frame["group"] = [name.partition("-")[0] for name in frame.identifier]
            frames[split] = frame
        groups = sorted(frames["dev"].group.unique())
        order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(0)).tolist()
        held = frames["dev"].group.isin([groups[i] for i in order[: max(1, len(groups) // 10)]])
        return {
            "train": frames["dev"][~held].reset_index(drop=True),
            "validation": frames["dev"][held].reset_index(drop=True),
            "test": frames["test"],
        }

    def size(self, split: str) -> int:
        return len(self.tables[split])

    def read(self, split: str, row: int) -> dict[str, Any]:
        q = self.tables[split].iloc[row]
        return {
            "image": boxes(decode_image(q.image, f"picture {q.permutation} of {q.identifier}")),
            "text": q.sentence,
            "label": np.array([int(q.label), place(split, row)]),
        }

    def head(self, widths: Mapping[str, int]) -> nn.Module:
        return ItemsHead(widths, 2, self.options.head, {"image": BOXES})

    def metrics(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Precision and consistency, and the precision on sentences that the training rows do not have."""
        right = logits.argmax(-1) == labels[:, 0]
        known = set(self.tables["train"].sentence)
        groups: dict[str, bool] = {}
        unseen = []
        for number, correct in zip(labels[:, 1].tolist(), right.tolist(), strict=True):
            split, row = row_at(number)
            q = self.tables[split].iloc[row]
            groups[q.group] = groups.get(q.group, True) and correct
            if q.sentence not in known:
                unseen.append(correct)
        scores = {
            "precision": 100 * right.double().mean().item(),
            "consistency": 100 * sum(groups.values()) / len(groups),
        }
        if unseen:
            scores["precision_unseen_sentences"] = 100 * sum(unseen) / len(unseen)
        return scores

    def result(self, split: str, rows: Sequence[int], logits: Tensor) -> dict[str, str | bytes]:
        """The CSV that the official metrics_images.py reads: file name of a picture and judgement."""
        frame, official = self.tables[split], "test" if split == "test" else "dev"
        lines = [
            f"{official}-{frame.identifier[row]}-{frame.permutation[row]}.png,{WORDS[judged]}\n"
            for row, judged in zip(rows, logits.argmax(-1).tolist(), strict=True)
        ]
        return {f"{split}_predictions.csv": "".join(lines)}

    def from_files(self, **inputs: str) -> dict[str, Any]:
        """`image` is a picture of 400 x 100, `text` the sentence."""
        row = super().from_files(**inputs)
        if "image" in row:
            row["image"] = boxes(row["image"])
        return row

    def show(self, row: Mapping[str, Any], logits: Tensor | None = None) -> dict[str, Any]:
        gap = np.full((BOX, STEP - BOX, 3), 128, np.uint8)
        picture = np.concatenate([row["image"][0], gap, row["image"][1], gap, row["image"][2]], axis=1)
        return {
            "parts": [part("image", "png", png(picture)), part("text", "text", row["text"])],
            "target": None if row["label"] is None else WORDS[row["label"][0]],
            "prediction": None if logits is None else WORDS[int(logits.argmax())],
        }


def boxes(picture: np.ndarray) -> np.ndarray:
    """The three boxes of a picture (100, 400, 3): (3, 100, 100, 3).

    Raises:
        MediaError: it is of another size.
    """
    if picture.shape != (BOX, STEP * (BOXES - 1) + BOX, 3):
        height, width = picture.shape[:2]
        raise MediaError(f"a picture of NLVR is 400 x 100 pixels, this one {width} x {height}")
    return np.stack([picture[:, i * STEP : i * STEP + BOX] for i in range(BOXES)])

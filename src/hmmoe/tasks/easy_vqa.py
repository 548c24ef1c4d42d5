"""easy-VQA: a question about one drawn shape, 13 answers (PyPI package `easy-vqa`, MIT).

Accuracy = questions answered right / all questions. The package has a train and a test split; validation is
taken
from the train split so that no picture is in both: a tenth of its pictures, the same ones always.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hmmoe.data.entries import read_json, read_text
from hmmoe.data.media import MediaError, decode_image, png
from hmmoe.options import about
from hmmoe.tasks.base import Options, Task, part
from hmmoe.tasks.heads import PooledHead


@dataclass
class EasyVQAOptions(Options):
    # With all 35,000 questions an MLP on frozen towers answers 99.9 %: nothing is left to compare.
    train_rows: int | None = field(default=2000, metadata=about("training questions, a fixed draw", least=1))
    validation_rows: int | None = field(
        default=1000, metadata=about("validation questions, a fixed draw", least=1)
    )


class EasyVQA(Task):
    """Image and question to one of 13 answers; `root` is the package's data folder, found by itself."""

    name = "easy_vqa"
    streams: ClassVar = {"image": "image", "text": "text"}
    metric = "accuracy"
    options_type = EasyVQAOptions

    def folder(self) -> Path:
        if self.root is None:
            from hmmoe.packages import package_folder

            return package_folder("easy_vqa", "easy-vqa") / "data"
        return super().folder()

    @cached_property
    def answers(self) -> list[str]:
        lines = read_text(self.folder() / "answers.txt").splitlines()
        return [line.strip() for line in lines if line.strip()]

    @cached_property
    def questions(self) -> dict[str, list[tuple[str, int, int]]]:
        """Split -> (question, number of the answer, number of the picture)."""
        numbers = {answer: i for i, answer in enumerate(self.answers)}
        found = {}
        for split in ("train", "test"):
            file = self.folder() / split / "questions.json"
            entries = read_json(file)
            try:
                found[split] = [(text, numbers[answer], int(image)) for text, answer, image in entries]
            except (ValueError, TypeError, KeyError) as error:
                raise MediaError(f"the questions in {file} cannot be read: {error!r}") from error
        pictures = sorted({q[2] for q in found["train"]})
        order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0)).tolist()
        held = {pictures[i] for i in order[: len(pictures) // 10]}
        found["validation"] = [q for q in found["train"] if q[2] in held]
        found["train"] = [q for q in found["train"] if q[2] not in held]
        return found

    def size(self, split: str) -> int:
        return len(self.questions[split])

    def read(self, split: str, row: int) -> dict[str, Any]:
        question, answer, picture = self.questions[split][row]
        folder = self.folder() / ("test" if split == "test" else "train") / "images"
        return {"image": decode_image(folder / f"{picture}.png"), "text": question, "label": answer}

    def head(self, widths: Mapping[str, int]) -> nn.Module:
        return PooledHead(widths, len(self.answers), self.options.head)

    def metrics(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        return {"accuracy": 100 * (logits.argmax(-1) == labels).double().mean().item()}

    def show(self, row: Mapping[str, Any], logits: Tensor | None = None) -> dict[str, Any]:
        return {
            "parts": [part("image", "png", png(row["image"])), part("text", "text", row["text"])],
            "target": None if row["label"] is None else self.answers[row["label"]],
            "prediction": None if logits is None else self.answers[int(logits.argmax())],
        }

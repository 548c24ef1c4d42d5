"""A task and towers small enough that a whole run takes a second.

As a script it is the `hmmoe` command with these registered, for tests that need other processes:
`python tests/engine/toy.py train …`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hmmoe.backbones import TOWERS, Tower
from hmmoe.data.media import png
from hmmoe.tasks import TASKS, Options, Task
from hmmoe.tasks.base import part
from hmmoe.tasks.heads import PooledHead

RECIPE: dict[str, Any] = {
    "name": "toy",
    "task": {"name": "toy"},
    "towers": {"image": {"name": "toy-image"}, "text": {"name": "toy-text", "width": 32}},
    "method": {"name": "lora", "budget": 0.5, "points": 2},
    "train": {"epochs": 4, "batch_size": 8, "learning_rate": 1e-2, "evaluations": 3},
}


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(self.norm(x)).tanh())


class Encoder(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.embed = nn.Linear(3, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)  # (B, N, D)
        for block in self.blocks:
            x = block(x)
        return x


def tower(modality: str, width: int) -> Tower:
    with torch.random.fork_rng():
        torch.manual_seed(width)
        module = Encoder(width).eval().requires_grad_(False)

    def preprocess(items: list[Any]) -> dict[str, Tensor]:
        if modality == "text":
            items = [np.resize(np.frombuffer(s.encode(), np.uint8), (4, 3)) / 64 - 1 for s in items]
        else:
            items = [np.resize(np.asarray(x, np.float64), (6, 3)) / 64 - 2 for x in items]
        return {"x": torch.tensor(np.stack(items), dtype=torch.float32)}

    return Tower(module, preprocess, modality, width)


@dataclass
class ToyOptions(Options):
    poison: int = -1  # this training row holds NaN


class ToyTask(Task):
    name = "toy"
    streams = {"image": "image", "text": "text"}  # noqa: RUF012
    metric = "accuracy"
    options_type = ToyOptions

    def size(self, split: str) -> int:
        return {"train": 64, "validation": 24, "test": 32}[split]

    def read(self, split: str, row: int) -> dict[str, Any]:
        """Is the picture bright? The question says whether the answer is turned round."""
        rng = np.random.default_rng([len(split), row])
        bright, turned = (int(x) for x in rng.integers(2, size=2))
        picture = rng.integers(0, 80, (16, 16, 3), dtype=np.uint8) + np.uint8(150 * bright)
        if split == "train" and row == self.options.poison:
            picture = np.full((16, 16, 3), np.nan)
        return {
            "image": picture,
            "text": "is it dark?" if turned else "is it bright?",
            "label": bright ^ turned,
        }

    def head(self, widths: dict[str, int]) -> nn.Module:
        return PooledHead(widths, 2)

    def metrics(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        return {"accuracy": 100 * (logits.argmax(-1) == labels).double().mean().item()}

    def result(self, split: str, rows: Sequence[int], logits: Tensor) -> dict[str, str | bytes]:
        answers = zip(rows, logits.argmax(-1).tolist(), strict=True)
        return {f"{split}.json": json.dumps([{"row": row, "answer": answer} for row, answer in answers])}

    def show(self, row: dict[str, Any], logits: Tensor | None = None) -> dict[str, Any]:
        words = ("no", "yes")
        return {
            "parts": [part("image", "png", png(row["image"])), part("text", "text", row["text"])],
            "target": None if row["label"] is None else words[row["label"]],
            "prediction": None if logits is None else words[int(logits.argmax())],
        }


def register() -> None:
    TASKS["toy"] = ToyTask
    TOWERS["toy-image"] = lambda width=24: tower("image", width)
    TOWERS["toy-text"] = lambda width=24: tower("text", width)


register()

if __name__ == "__main__":
    from hmmoe.cli import app

    app()

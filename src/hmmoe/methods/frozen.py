"""Frozen towers, trained head: y = head(f_1(x_1), …, f_M(x_M)), no f changed. The floor of a comparison."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hmmoe.methods.base import Method, freeze

HEAD_FILE = "head.safetensors"


@dataclass
class Frozen(Method):
    name = "frozen"
    learning_rate = 3e-3

    def build(self, model: Any) -> Any:
        freeze(model)
        return model

    def save(self, model: Any, folder: str) -> None:
        from safetensors.torch import save_file

        save_file(
            {k: v.contiguous() for k, v in model.head.state_dict().items()}, str(Path(folder) / HEAD_FILE)
        )

    def load(self, model: Any, folder: str) -> Any:
        from hmmoe.weights import load_into

        freeze(model)
        load_into(model.head.state_dict(), Path(folder) / HEAD_FILE, "head")
        return model

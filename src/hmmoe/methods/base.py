"""What every fine-tuning method is: options in, a model with only the right parameters trainable out.

The equal-budget rule: a method's share is adapters / (backbones + adapters). The task head is counted apart, since it
is the same for all. Every method adapts the same blocks (`points`) and takes the largest size whose share does not
exceed `budget`.
"""

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from hmmoe.errors import unknown
from hmmoe.options import build, option


@dataclass
class Method:
    """Base of all methods. A subclass is a dataclass of its recipe options with a `build`."""

    name: ClassVar[str]
    learning_rate: ClassVar[float]  # the middle of the grid that compare tries

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> "Method":
        """Checked options of the recipe's `method` mapping (without its name)."""
        return build(cls, options, "method")

    def build(self, model: Any) -> Any:
        """Freeze `model` (a MultimodalModel) but for the head and what the method adds, and return it, perhaps wrapped.

        New weights are drawn from torch's global generator: seed it first.
        """
        raise NotImplementedError

    def load(self, model: Any, folder: str) -> Any:
        """`build` for a run that was saved in `folder`: the same model with the saved weights."""
        raise NotImplementedError


@dataclass
class Budgeted(Method):
    """A method with adapters: sized by a budget or a rank, placed at fusion points."""

    budget: float | None = option(None, "largest share adapters / (backbones + adapters)", above=0, most=0.99)
    rank: int | None = option(None, "the size itself, instead of a budget", above=0)
    points: int | list | None = option(
        None,
        "which blocks: a number spread evenly over the depths, or a list of {stream: block}; all if not given",
    )

    def __post_init__(self) -> None:
        if (self.budget is None) == (self.rank is None):
            raise ValueError(f"method {self.name!r} needs exactly one of budget and rank")

    def solve_rank(self, per_rank: int, backbone: int) -> int:
        """The rank to use, where one unit of rank costs `per_rank` parameters.

        Raises:
            ValueError: even rank 1 is above the budget; the sentence says the smallest share.
        """
        if self.budget is None:
            return self.rank or 1
        rank = int(self.budget * backbone / (1 - self.budget) / per_rank)
        while share(per_rank * (rank + 1), backbone) <= self.budget:  # the division above may round down
            rank += 1
        while rank > 0 and share(per_rank * rank, backbone) > self.budget:
            rank -= 1
        if rank == 0:
            least = share(per_rank, backbone)
            raise ValueError(
                f"budget {self.budget:g} is below what {self.name!r} needs at rank 1; the smallest share is {least:.2%}"
            )
        return rank


def share(adapter: int, backbone: int) -> float:
    """Trainable share adapters / (backbones + adapters)."""
    return adapter / (backbone + adapter) if adapter else 0.0


def freeze(model: Any) -> None:
    """Only the head learns."""
    model.requires_grad_(False)
    model.head.requires_grad_(True)


def adapted_blocks(model: Any, points: int | list | None) -> dict[str, list[str]]:
    """Per stream the module paths, within its tower, of the blocks that stand at a fusion point.

    Raises:
        ValueError: a point names a stream or a block that is not there.
    """
    from hmmoe.streams import find_blocks, spread

    blocks = {stream: find_blocks(tower) for stream, tower in model.towers.items()}
    depths = {stream: len(paths) for stream, paths in blocks.items()}
    if not isinstance(points, list):
        points = spread(depths, points or min(depths.values()))
    chosen: dict[str, list[str]] = {stream: [] for stream in blocks}
    for point in points:
        for stream, block in point.items():
            if stream not in blocks:
                raise ValueError(unknown("stream in points", stream, blocks))
            if not -depths[stream] <= block < depths[stream]:
                raise ValueError(
                    f"points name block {block} of {stream!r}, which has {depths[stream]} blocks"
                )
            path = blocks[stream][block]
            if path not in chosen[stream]:
                chosen[stream].append(path)
    return chosen


def count_parts(model: Any) -> dict[str, int]:
    """Numbers of parameters: `backbone`, `adapter`, `head`, of a model that a method has built."""
    parts = {"backbone": 0, "adapter": 0, "head": 0}
    for name, parameter in model.named_parameters():
        if is_head(name):  # PEFT keeps the untrained original beside its trained copy: count one
            parts["head"] += parameter.numel() if parameter.requires_grad else 0
        else:
            parts["adapter" if parameter.requires_grad else "backbone"] += parameter.numel()
    return parts


def is_head(parameter: str) -> bool:
    """Does this parameter name, with or without PEFT's prefix, belong to the task head?"""
    return re.match(r"(base_model\.model\.)?head\.", parameter) is not None

"""What every fine-tuning method is: options in, a model with only the right parameters trainable out.

The equal-budget rule: a method's share is adapters / (backbones + adapters); the task head is counted apart,
since it is the same for all. Every method adapts the same blocks (`points`) and takes the largest size whose
share does not exceed `budget`.
"""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from hmmoe.options import about, build

if TYPE_CHECKING:
    from torch import nn

    from hmmoe.plan import Plan


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
        """Freeze `model`, a MultimodalModel, but for its head, and return it with what the method adds.

        New weights are drawn from torch's global generator: seed it first.
        """
        raise NotImplementedError

    def load(self, model: Any, folder: str) -> Any:
        """`build` for a run that was saved in `folder`: the same model with the saved weights."""
        raise NotImplementedError


@dataclass
class Budgeted(Method):
    """A method with adapters: sized by a budget or a rank, placed at fusion points."""

    budget: float | None = field(
        default=None, metadata=about("largest share adapters / (backbones + adapters)", above=0, most=0.99)
    )
    rank: int | None = field(default=None, metadata=about("the size itself, instead of a budget", above=0))
    points: int | list | None = field(
        default=None,
        metadata=about(
            "blocks: a number spread evenly over the depths, or a list of {stream: block}; all if not given"
        ),
    )

    def __post_init__(self) -> None:
        if (self.budget is None) == (self.rank is None):
            raise ValueError(f"method {self.name!r} needs exactly one of budget and rank")

    def solve_rank(self, per_rank: int, backbone: int) -> int:
        """The rank to use, where one unit of rank costs `per_rank` parameters.

        Raises:
            ValueError: even rank 1 is above the budget; the sentence says the smallest share.
        """
        from hmmoe.budget import largest_within

        if self.budget is None:
            return self.rank or 1
        return largest_within(self.budget, backbone, lambda rank: rank * per_rank, f"rank of {self.name}")


def share(adapter: int, backbone: int) -> float:
    """Trainable share adapters / (backbones + adapters)."""
    return adapter / (backbone + adapter) if adapter else 0.0


def freeze(model: Any) -> None:
    """Only the head learns."""
    model.requires_grad_(False)
    model.head.requires_grad_(True)


def plan_of(model: "nn.Module", points: int | list | None) -> "Plan":
    """The blocks that HMMoE would adapt with these `points`, and which of them meet.

    Raises:
        ValueError: `points` does not fit the towers, or the width of a block cannot be read off it.
    """
    from hmmoe.config import HMMoEConfig
    from hmmoe.plan import make_plan

    return make_plan(model, HMMoEConfig(rank=1, points=points))


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

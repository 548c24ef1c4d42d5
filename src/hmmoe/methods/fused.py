"""Cross-modal rivals meet where HMMoE's streams meet: same fusion points, same lockstep, another layer.

    X_m ← X_m + layer(X_1, …, X_M)_m        after the block of every stream that stands at the point

LAVISH, DG-SCT and AVMoE put two adapters into a block, beside its attention (p1) and beside its MLP (p2),
which takes code for each encoder. Here towers are unmodified and the states can be read after a block,
where DG-SCT and AVMoE put the p2 of their audio tower: so there is one adapter per point and direction, and
at a budget it is larger for that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from hmmoe.methods.base import freeze, plan_of
from hmmoe.methods.inplace import InPlaceBudgeted, beside, tower_parameters

if TYPE_CHECKING:
    from torch import nn

    from hmmoe.plan import Plan


@dataclass
class Fused(InPlaceBudgeted):
    """A method that is one layer per fusion point."""

    def layer(self, widths: Mapping[str, int], rank: int) -> "nn.Module":
        """The layer of a point, called as `HMMoELayer` is: states, masks -> updates, Routing."""
        raise NotImplementedError

    def build(self, model: Any) -> Any:
        freeze(model)
        plan = plan_of(model, self.points)

        @cache
        def size(widths: tuple[tuple[str, int], ...], rank: int) -> int:
            import torch

            with torch.device("meta"):
                return sum(p.numel() for p in self.layer(dict(widths), rank).parameters())

        kinds = [tuple(sorted(widths.items())) for widths in plan.widths]
        rank = self.solve(tower_parameters(model), lambda r: sum(size(kind, r) for kind in kinds))
        attach(model, plan, [self.layer(widths, rank) for widths in plan.widths])
        return model


def attach(model: Any, plan: "Plan", layers: "list[nn.Module]") -> None:
    """Put a layer at every fusion point of the plan."""
    from hmmoe.fusion import HMMoEBlock
    from hmmoe.streams.lockstep import Link
    from hmmoe.streams.points import unwrap

    for number, (point, widths, layer) in enumerate(zip(plan.points, plan.widths, layers, strict=True)):
        for stream, index in point.items():
            path = plan.blocks[stream][index]
            parent, block = model.get_submodule(path.rpartition(".")[0]), model.get_submodule(path)
            # streams that share a tower share the wrapper
            wrapper = block if isinstance(block, HMMoEBlock) else HMMoEBlock(block)
            wrapper.add(
                Link(
                    "default", number, stream, tuple(sorted(widths)), widths, (beside(layer, unwrap(block)),)
                ),
                None,
            )
            setattr(parent, path.rpartition(".")[2], wrapper)
    model.train(model.training)  # towers in eval mode, new layers not

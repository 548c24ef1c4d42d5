"""From a share of parameters to a rank.

    share = (adapters + routers) / (backbones + adapters + routers)

A budget takes the largest rank whose share does not exceed it. Layers are counted on the meta device: no
memory is used.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from hmmoe.layer import HMMoELayer


def layer_parameters(widths: Mapping[str, int], rank: int, **options: Any) -> dict[str, int]:
    """Parameters of one layer, `{"adapter": …, "router": …}`; options are HMMoELayer's."""
    with torch.device("meta"):
        layer = HMMoELayer(widths, rank=rank, **options)
    router = sum(p.numel() for p in layer.router.parameters())
    return {"adapter": sum(p.numel() for p in layer.parameters()) - router, "router": router}


def solve_rank(budget: float, backbone: int, points: Sequence[Mapping[str, int]], **options: Any) -> int:
    """The largest rank whose layers stay within the budget.

    Args:
        budget: share in (0, 1).
        backbone: parameters of all frozen backbones.
        points: the streams' widths at each fusion point.
        options: HMMoELayer's, beside widths and rank.

    Raises:
        ValueError: when even rank 1 takes more, saying the smallest share.
    """
    kinds = {tuple(sorted(widths.items())): 0 for widths in points}
    for widths in points:
        kinds[tuple(sorted(widths.items()))] += 1

    def added(rank: int) -> int:
        return sum(n * sum(layer_parameters(dict(w), rank, **options).values()) for w, n in kinds.items())

    return largest_within(budget, backbone, added, "rank")


def largest_within(budget: float, backbone: int, added: Callable[[int], int], what: str) -> int:
    """The largest whole number from 1 whose `added` parameters take at most `budget` of backbone + added.

    Raises:
        ValueError: when 1 already takes more.
    """

    def share(size: int) -> float:
        extra = added(size)
        return extra / (backbone + extra)

    if (least := share(1)) > budget:
        digit = 10 ** (math.floor(math.log10(least)) - 3)  # the last of four; rounded up, so that it will do
        raise ValueError(
            f"no {what} meets budget={budget:g}: the smallest share here, at {what} 1, is "
            f"{math.ceil(least / digit) * digit:.4g}; raise the budget"
        )
    low, high = 1, 2
    while share(high) <= budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if share(middle) <= budget else (low, middle)
    return low

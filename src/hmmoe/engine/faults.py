"""Where a number stopped being one: a second forward pass over the same batch with an eye on every fusion point."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def locate(model: nn.Module, inputs: Mapping[str, Any]) -> str | None:
    """The first fusion point with a value that is not finite, in words; None where all of them are clean."""
    from hmmoe.layer import HMMoELayer

    found: list[str] = []
    hooks = []
    points = [module for module in model.modules() if isinstance(module, HMMoELayer)]
    for number, layer in enumerate(points):

        def watch(_: nn.Module, given: tuple, output: Any, number: int = number) -> None:
            for what, states in (("the towers' states before", given[0]), ("the update of", output[0])):
                found.extend(f"{what} fusion point {number}, stream {m!r}" for m, x in states.items() if not _finite(x))

        hooks.append(layer.register_forward_hook(watch))
    try:
        model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def _finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())

"""Norm tuning: y = γ (x - μ) / σ + β, only γ and β of the towers' norms learn.

LAVISH's authors report that it narrows the gap to their adapters; for attention layers alone see Zhao et
al., arXiv 2312.11420. Batch and group norms of convolutional towers count as well; their running statistics
stay. It has no size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hmmoe.methods.base import freeze
from hmmoe.methods.inplace import InPlace

if TYPE_CHECKING:
    from torch import nn


@dataclass
class LayerNorm(InPlace):
    name = "layernorm"
    learning_rate = 1e-3

    def build(self, model: Any) -> Any:
        freeze(model)
        norms = list(norm_parameters(model.towers))
        if not norms:
            raise ValueError(
                "method 'layernorm' found no norm with weights in the towers; choose another method"
            )
        for parameter in norms:
            parameter.requires_grad_(True)
        return model


def norm_parameters(module: "nn.Module") -> "Iterator[nn.Parameter]":
    """Scales and shifts of all norms inside a module."""
    for inner in module.modules():
        if "norm" in type(inner).__name__.lower():
            yield from inner.parameters(recurse=False)

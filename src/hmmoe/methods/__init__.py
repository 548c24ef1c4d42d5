"""Fine-tuning methods by name: one interface, one file each. Nothing heavy is imported until one is built."""

from typing import Any

from hmmoe.errors import unknown
from hmmoe.methods.base import Budgeted, Method, count_parts, is_head, share
from hmmoe.methods.frozen import Frozen
from hmmoe.methods.hmmoe import HMMoE
from hmmoe.methods.lora import Lora

METHODS: dict[str, type[Method]] = {method.name: method for method in (Frozen, Lora, HMMoE)}

__all__ = ["METHODS", "Budgeted", "Method", "count_parts", "is_head", "make_method", "method_named", "share"]


def method_named(name: str) -> type[Method]:
    """The class of a method, or a ValueError that suggests the nearest name."""
    if name not in METHODS:
        raise ValueError(unknown("method", name, METHODS))
    return METHODS[name]


def make_method(tree: dict[str, Any]) -> Method:
    """A method from the recipe's `method` mapping, name and options checked."""
    options = dict(tree)
    return method_named(options.pop("name")).from_options(options)

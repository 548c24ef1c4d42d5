"""Fine-tuning methods by name: one interface, one file each. Nothing heavy is imported until one is built."""

from typing import Any

from hmmoe.errors import unknown
from hmmoe.methods.adapter import Adapter
from hmmoe.methods.adapter_parallel import AdapterParallel
from hmmoe.methods.avmoe import AVMoE
from hmmoe.methods.base import Budgeted, Method, count_parts, is_head, share
from hmmoe.methods.bitfit import BitFit
from hmmoe.methods.dg_sct import DGSCT
from hmmoe.methods.frozen import Frozen
from hmmoe.methods.full import Full
from hmmoe.methods.hmmoe import HMMoE
from hmmoe.methods.lavish import Lavish
from hmmoe.methods.layernorm import LayerNorm
from hmmoe.methods.lora import Lora
from hmmoe.methods.moe_adapter import MoEAdapter
from hmmoe.methods.uniadapter import UniAdapter
from hmmoe.methods.vl_adapter import VLAdapter

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Frozen,
        Full,
        BitFit,
        LayerNorm,
        Lora,
        Adapter,
        AdapterParallel,
        Lavish,
        DGSCT,
        AVMoE,
        UniAdapter,
        VLAdapter,
        MoEAdapter,
        HMMoE,
    )
}

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

"""BitFit (Ben Zaken et al., arXiv 2106.10199): h = W x + b, only the biases b of the towers learn.

All of them, as published: those of linear layers, convolutions and norms. It has no size.
"""

from dataclasses import dataclass
from typing import Any

from hmmoe.methods.base import freeze
from hmmoe.methods.inplace import InPlace


@dataclass
class BitFit(InPlace):
    name = "bitfit"
    learning_rate = 1e-3

    def build(self, model: Any) -> Any:
        freeze(model)
        biases = [
            p for name, p in model.towers.named_parameters() if name.rpartition(".")[2].endswith("bias")
        ]
        if not biases:
            raise ValueError("method 'bitfit' found no bias in the towers; choose another method")
        for bias in biases:
            bias.requires_grad_(True)
        return model

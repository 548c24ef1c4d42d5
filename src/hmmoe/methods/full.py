"""Full fine-tuning: every parameter θ of the towers learns, θ ← θ - η ∇L(θ).

Towers stay in eval mode as in all methods here (no dropout, no drifting batch statistics), so that a
comparison differs in what learns and in nothing else.
"""

from dataclasses import dataclass
from typing import Any

from hmmoe.methods.base import freeze
from hmmoe.methods.inplace import InPlace


@dataclass
class Full(InPlace):
    name = "full"
    learning_rate = 3e-5

    def build(self, model: Any) -> Any:
        freeze(model)
        for parameter in model.towers.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        return model

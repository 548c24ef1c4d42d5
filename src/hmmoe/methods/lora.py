"""LoRA through PEFT (Hu et al., arXiv 2106.09685): h = W x + (α/r) B A x, with B = 0 at the start.

On every linear layer and every ungrouped convolution of the adapted blocks, with one rank for all of them. It
departs from the paper, which adapts attention's query and value only, since the towers here are of any kind;
all linear layers is what later practice (QLoRA, arXiv 2305.14314) recommends.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hmmoe.methods.base import Budgeted, plan_of
from hmmoe.options import about


@dataclass
class Lora(Budgeted):
    alpha: float = field(
        default=2.0, metadata=about("scale of the update, in multiples of the rank", above=0)
    )
    dropout: float = field(default=0.0, metadata=about("dropout before the down product", least=0, most=0.99))

    name = "lora"
    learning_rate = 1e-3

    def build(self, model: Any) -> Any:
        from peft import LoraConfig, get_peft_model

        targets = _targets(model, self.points)
        backbone = sum(p.numel() for p in model.towers.parameters())
        rank = self.solve_rank(sum(targets.values()), backbone)
        config = LoraConfig(
            r=rank,
            lora_alpha=self.alpha * rank,  # type: ignore[arg-type]  # PEFT only divides it by r
            lora_dropout=self.dropout,
            target_modules="|".join(
                re.escape(name) for name in targets
            ),  # a regex: full match on the whole path
            modules_to_save=["head"],
        )
        return get_peft_model(model, config)

    def save(self, model: Any, folder: str) -> None:
        model.save_pretrained(folder)

    def load(self, model: Any, folder: str) -> Any:
        from peft import get_peft_model_state_dict

        from hmmoe.weights import load_into

        model = self.build(model)
        load_into(get_peft_model_state_dict(model), Path(folder) / "adapter_model.safetensors", self.name)
        return model


def _targets(model: Any, points: int | list | None) -> dict[str, int]:
    """Path in the model of every layer to adapt, with its parameters per unit of rank."""
    from torch import nn

    from hmmoe.methods.parts.seams import running_layers

    costs: dict[str, int] = {}
    for block in sorted(plan_of(model, points).paths):
        for inner, layer in running_layers(model.get_submodule(block)).items():
            name = f"{block}.{inner}".rstrip(".")
            if isinstance(layer, nn.Linear):
                costs[name] = layer.in_features + layer.out_features
            elif isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.groups == 1:
                costs[name] = layer.in_channels * layer.weight[0, 0].numel() + layer.out_channels
    if not costs:
        raise ValueError("method 'lora' found no linear layer or convolution in the adapted blocks")
    return costs

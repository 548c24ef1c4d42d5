"""What the routers do, in Trainer's log: read from the device at logging steps only."""

from typing import Any

from torch import nn
from transformers import TrainerCallback


class RoutingCallback(TrainerCallback):
    """Adds the auxiliary losses and the use of experts to every log of training.

    Keys: `aux_loss` (as it stands in the loss), `balance`, `z`, and `experts/<stream>/<number>`, the mean
    weight of an expert over samples and fusion points; experts are numbered in the order of
    `hmmoe.experts.EXPERTS`.
    """

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Any = None, model: Any = None, **_: Any
    ) -> None:
        if logs is None or "loss" not in logs or model is None:
            return
        more = routing_log(model)
        logs.update(more)
        if state.log_history:  # Trainer has written this log's entry already
            state.log_history[-1].update(more)


def routing_log(model: nn.Module) -> dict[str, float]:
    """The numbers of `RoutingCallback` for the last forward of an adapted model; empty if there was none."""
    root: Any = next((m for m in model.modules() if "hmmoe_last" in m.__dict__), None)
    if root is None:
        return {}
    last = root.hmmoe_last
    found: dict[str, float] = {}
    for adapter, (balance, z) in last.losses.items():
        config = root.peft_config[adapter]
        found["balance"], found["z"] = balance.item(), z.item()
        found["aux_loss"] = config.balance_coef * found["balance"] + config.z_coef * found["z"]
        points = last.kept[adapter].values()
        for m in sorted({m for point in points for m in point}):
            means = [point[m].flatten(0, -2).mean(0) for point in points if m in point]
            for e, weight in enumerate((sum(means) / len(means)).tolist()):
                found[f"experts/{m}/{e}"] = weight
    return found

"""What the routers of a forward did: collected without waiting for the device, read when someone asks."""

import inspect
from collections.abc import Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hmmoe.layer import Routing


@dataclass
class Record:
    """Routings of one forward, by adapter and fusion point; a point met by several groups has several."""

    routings: dict[tuple[str, int], list[Routing]] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    watch: bool = False
    first_bad: str | None = None
    token: Token | None = None

    def aux(self, adapter: str) -> tuple[Tensor, Tensor] | None:
        """Balance and z loss of an adapter, means over its points; None if it was not met."""
        met = [r for (name, _), routings in self.routings.items() if name == adapter for r in routings]
        if not met:
            return None
        return torch.stack([r.balance for r in met]).mean(), torch.stack([r.z for r in met]).mean()

    def weights(self) -> dict[str, dict[int, dict[str, Tensor]]]:
        """adapter -> point -> stream -> weights, detached."""
        found: dict[str, dict[int, dict[str, Tensor]]] = {}
        for (adapter, point), routings in self.routings.items():
            there = found.setdefault(adapter, {}).setdefault(point, {})
            for routing in routings:
                there.update({m: w.detach() for m, w in routing.weights.items()})
        return found


@dataclass
class Last:
    """What is kept of a record after its forward, free of the graph.

    Attributes:
        first_bad: see `HMMoEModel.first_nonfinite`.
        losses: adapter -> its balance and z loss.
    """

    kept: dict[str, dict[int, dict[str, Tensor]]]
    losses: dict[str, tuple[Tensor, Tensor]]
    first_bad: str | None

    def weights(self) -> dict[str, dict[int, dict[str, Tensor]]]:
        """See `Record.weights`."""
        return self.kept


RECORD: ContextVar[Record | None] = ContextVar("hmmoe_record", default=None)
WATCH: ContextVar[bool] = ContextVar("hmmoe_watch", default=False)


def note(adapter: str, point: int, routing: Routing, updates: dict[str, Tensor]) -> None:
    """Add a meeting to the record of this forward, if one is kept."""
    record = RECORD.get()
    if record is None:
        return
    record.routings.setdefault((adapter, point), []).append(routing)
    if record.watch and record.first_bad is None:
        bad = [m for m, update in updates.items() if not update.isfinite().all()]
        if bad:
            record.first_bad = f"fusion point {point}, stream {bad[0]!r}"


def open_record(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
    """Forward pre-hook of an adapted model: collect what its routers do; keep its inputs for spans."""
    names = tuple(inspect.signature(model.forward).parameters) if args else ()
    record = Record(inputs={**dict(zip(names, args, strict=False)), **kwargs}, watch=WATCH.get())
    record.token = RECORD.set(record)


def close_record(model: Any, args: tuple, output: Any) -> Any:
    """Forward hook of an adapted model: in training, add auxiliary losses to `output.loss`; keep routing."""
    record = RECORD.get()
    if record is None or record.token is None:
        return output
    RECORD.reset(record.token)
    adapters = dict.fromkeys(adapter for adapter, _ in record.routings)
    losses = {adapter: aux for adapter in adapters if (aux := record.aux(adapter)) is not None}
    detached = {adapter: (balance.detach(), z.detach()) for adapter, (balance, z) in losses.items()}
    model.hmmoe_last = Last(record.weights(), detached, record.first_bad)
    if model.training and losses and isinstance(output, dict):
        terms = []
        for adapter, (balance, z) in losses.items():
            config = model.peft_config[adapter]
            terms.append(config.balance_coef * balance + config.z_coef * z)
        total = torch.stack(terms).sum()
        if "aux_loss" in getattr(output, "__dataclass_fields__", ()):
            output["aux_loss"] = total
        if output.get("loss") is not None:
            output["loss"] = output["loss"] + total
    return output

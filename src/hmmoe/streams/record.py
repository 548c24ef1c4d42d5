"""What the routers of a forward did: collected without waiting for the device, read when someone asks."""

from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hmmoe.layer import Routing


@dataclass
class Record:
    """Routings of one forward, by adapter and fusion point; a point met in several groups of streams has several."""

    routings: dict[tuple[str, int], list[Routing]] = field(default_factory=dict)
    watch: bool = False
    first_bad: str | None = None

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


RECORD: ContextVar[Record | None] = ContextVar("hmmoe_record", default=None)


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

"""What a run is measured by: parameters by part, peak memory, and where its routers sent the streams."""

import resource
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hmmoe.methods import count_parts, share


def parameters(model: nn.Module) -> dict[str, float]:
    """Parameters of `backbone`, `adapter` and `head`, and the `share` adapter / (backbone + adapter)."""
    parts = count_parts(model)
    return {**parts, "share": share(parts["adapter"], parts["backbone"])}


def peak_mib() -> float:
    """The most memory that this process has held: on the accelerator where there is one, else resident."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


class RoutingMeter:
    """Mean gate weight per fusion point, stream and expert over all samples that passed."""

    def __init__(self) -> None:
        self.sums: list[dict[str, Tensor]] = []
        self.counts: list[dict[str, int]] = []
        self.experts: list[str] = []

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator["RoutingMeter"]:
        """Listen to every HMMoE layer of `model` while the context lasts; silent for models without one."""
        from hmmoe.layer import HMMoELayer

        layers = [module for module in model.modules() if isinstance(module, HMMoELayer)]
        if layers:
            self.experts = expert_names(layers[0].counts)
            self.sums, self.counts = [{} for _ in layers], [{} for _ in layers]
        hooks = [layer.register_forward_hook(self._hook(point)) for point, layer in enumerate(layers)]
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self, point: int) -> Any:
        def add(_: nn.Module, given: tuple, output: Any) -> None:
            for stream, weights in output[1].weights.items():  # (B, E) or (B, N, E)
                flat = weights.float().flatten(0, -2)
                sums, counts = self.sums[point], self.counts[point]
                sums[stream] = sums.get(stream, 0) + flat.sum(0)
                counts[stream] = counts.get(stream, 0) + len(flat)

        return add

    def result(self) -> dict[str, Any] | None:
        """`{"experts": names, "points": [{stream: [weight per expert]}]}`; None without routers."""
        if not self.experts:
            return None
        points = [
            {m: [round(v, 5) for v in (sums[m] / counts[m]).tolist()] for m in sorted(sums)}
            for sums, counts in zip(self.sums, self.counts, strict=True)
        ]
        return {"experts": self.experts, "points": points}


def expert_names(counts: Mapping[str, int]) -> list[str]:
    """One name per expert in the layer's order: `affine 1`, `affine 2`, …"""
    return [f"{kind.replace('_', '-')} {i + 1}" for kind, n in counts.items() for i in range(n)]

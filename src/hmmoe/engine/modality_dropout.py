"""Training that is ready for a missing modality: now and then a sample lacks one of its streams.

Neither the experts (or a rival's adapters) nor the head see a stream that is left out, as when it is missing
in earnest. HMMoE's own `modality_dropout` hides a stream from the others' experts only.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from hmmoe.container import MultimodalModel


class ModalityDropout:
    """Called with a batch, gives it back with `present` telling what is left out.

    Args:
        model: holds a `MultimodalModel`; a stream that is alone in its group is never left out.
        chance: per sample, that one of its streams is.

    Raises:
        ValueError: no stream may be left out.
    """

    def __init__(self, model: nn.Module, chance: float) -> None:
        found = next((m for m in model.modules() if isinstance(m, MultimodalModel)), None)
        self.groups = [group for group in found.groups if len(group) > 1] if found is not None else []
        if not self.groups:
            raise ValueError("train.modality_dropout needs towers of which one can be left out")
        self.chance = chance

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        groups = [[m for m in group if inputs.get(m) is not None] for group in self.groups]
        streams = [m for group in groups for m in group]
        if not streams:
            return dict(inputs)
        batch = len(next(iter(inputs[streams[0]].values())))
        told = inputs.get("present") or {}
        there = {m: told[m] if m in told else torch.ones(batch, dtype=torch.bool) for m in streams}
        which = torch.randint(len(streams), (batch,))
        drop = torch.rand(batch) < self.chance
        present = dict(told)
        for group in groups:
            for m in group:
                others = [there[n] for n in group if n != m]
                left = torch.stack(others).any(0) if others else torch.zeros(batch, dtype=torch.bool)
                present[m] = there[m] & ~(drop & (which == streams.index(m)) & left)
        return {**inputs, "present": present}

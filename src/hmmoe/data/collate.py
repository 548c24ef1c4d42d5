"""Rows of a task to the inputs of a model."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


class Streams(Protocol):
    """What collation needs to know of a task."""

    streams: Mapping[str, str]
    folded: Collection[str]


class Collator:
    """Rows -> the keywords of `MultimodalModel`: index (B,), labels (B, …) and, by stream, the tower's
    inputs.

    A stream's value in a row is raw (the tower's preprocessing runs here) or already prepared (a mapping of
    tensors, see `Prepared`). A folded stream holds a sequence of T items and becomes (B, T, …). A stream that
    is None in every row is left out; one that is None in some is filled there and marked in `present`, stream
    -> (B,).

    Args:
        towers: stream -> anything with `preprocess` (see `hmmoe.backbones.Tower`).
        task: gives `streams` and `folded`.
    """

    def __init__(self, towers: Mapping[str, Any], task: Streams):
        self.towers, self.folded = dict(towers), set(task.folded)
        for name in towers:
            if name not in task.streams:
                raise ValueError(
                    f"the task has no stream {name!r} for a tower; its streams: {', '.join(task.streams)}"
                )

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = {"index": torch.tensor([row["index"] for row in rows])}
        if all(row.get("label") is not None for row in rows):
            batch["labels"] = torch.from_numpy(np.stack([np.asarray(row["label"]) for row in rows]))
        for name in self.towers:
            values = [row.get(name) for row in rows]
            there = [value is not None for value in values]
            if not any(there):
                continue
            known = self.prepare(name, [value for value in values if value is not None])
            if not all(there):
                # Rows without the stream get zeros, which `present` tells the model not to read.
                place = torch.tensor(there)
                known = {
                    k: x.new_zeros(len(rows), *x.shape[1:]).index_put((place,), x) for k, x in known.items()
                }
                batch.setdefault("present", {})[name] = place
            batch[name] = known
        return batch

    def prepare(self, name: str, values: Sequence[Any]) -> dict[str, Tensor]:
        """One stream's values of B rows as the tower's inputs (B, …) or, folded, (B, T, …)."""
        if all(isinstance(v, Mapping) for v in values):
            return {key: torch.stack([v[key] for v in values]) for key in values[0]}
        if name not in self.folded:
            return self.towers[name].preprocess(list(values))
        lengths = {len(v) for v in values}
        if len(lengths) > 1:
            raise ValueError(f"stream {name!r} has rows of {sorted(lengths)} items; a batch needs one length")
        flat = self.towers[name].preprocess([item for v in values for item in v])  # (B·T, …)
        return {key: x.unflatten(0, (len(values), -1)) for key, x in flat.items()}

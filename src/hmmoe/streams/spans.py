"""Spans: streams that share one sequence, as in ViLT or a decoder that reads projected image tokens.

    [CLS] a red bus [SEP] | patch patch patch patch   {"text": [0, "input_ids"], "image": ["input_ids", None]}
     └──────── text ─────┘ └──────── image ───────┘

A boundary is a token index (negative counts from the end), None for the sequence's own end, or the name of a
model input whose length (dim 1) it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hmmoe.errors import unknown

Spans = Mapping[str, Sequence[int | str | None]]


def resolve(spans: Spans, inputs: Mapping[str, Any], length: int) -> dict[str, tuple[int, int]]:
    """Stream -> (start, stop) in a sequence of `length`, in order of position; empty spans are left out.

    Raises:
        ValueError: an input that is not there, a span outside of the sequence, or two that overlap.
    """
    found: dict[str, tuple[int, int]] = {}
    for m, (start, stop) in spans.items():
        low = 0 if start is None else _boundary(m, start, inputs, length)
        high = length if stop is None else _boundary(m, stop, inputs, length)
        if not 0 <= low <= high <= length:
            raise ValueError(
                f"spans[{m!r}] = {[start, stop]} is [{low}, {high}] in a sequence of {length} tokens"
            )
        if low < high:
            found[m] = low, high
    ordered = dict(sorted(found.items(), key=lambda item: item[1]))
    at, before = 0, ""
    for m, (low, high) in ordered.items():
        if low < at:
            raise ValueError(f"spans of {before!r} and {m!r} overlap, in a sequence of {length} tokens")
        at, before = high, m
    return ordered


def _boundary(m: str, at: int | str, inputs: Mapping[str, Any], length: int) -> int:
    if isinstance(at, int):
        return at + length if at < 0 else at
    tensors = {k: v for k, v in inputs.items() if isinstance(v, Tensor)}
    for nested in inputs.values():  # the streams of a MultimodalModel
        if isinstance(nested, Mapping):
            tensors |= {k: v for k, v in nested.items() if isinstance(v, Tensor)}
    if at not in tensors:
        raise ValueError(unknown(f"model input in spans[{m!r}]", at, tensors))
    return tensors[at].shape[1]


def split(x: Tensor, places: Mapping[str, tuple[int, int]]) -> dict[str, Tensor]:
    """`(B, N, ...)` -> stream -> `(B, N_m, ...)`."""
    return {m: x[:, low:high] for m, (low, high) in places.items()}


def join(updates: Mapping[str, Tensor], places: Mapping[str, tuple[int, int]], like: Tensor) -> Tensor:
    """Updates of spans -> update of the sequence `(B, N, D)`, zero between them."""
    parts, at = [], 0
    for m, (low, high) in places.items():
        if low > at:
            parts.append(torch.zeros_like(like[:, at:low]))
        parts.append(updates[m])
        at = high
    if at < like.shape[1]:
        parts.append(torch.zeros_like(like[:, at:]))
    return torch.cat(parts, 1)

"""Spans: streams that share one sequence, as in ViLT or a decoder that reads projected image tokens.

    [CLS] a red bus [SEP] | patch patch patch patch   {"text": [0, "input_ids"], "image": ["input_ids", None]}
     └──────── text ─────┘ └──────── image ───────┘

A boundary is a token index (negative counts from the end), None for the sequence's own end, or the name of a
model input whose length (dim 1) it is.

Where a sample is read in several passes, rows of the batch that stand together (VLMo reads a sentence with
each of NLVR2's two images), a third entry says which pass a stream is of; a stream without one is of all:

    sample 1 │ sentence | image 1    {"text": [0, "input_ids"],
             │ sentence | image 2     "left": ["input_ids", None, 0], "right": ["input_ids", None, 1]}
    sample 2 │ …
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hmmoe.errors import unknown

Spans = Mapping[str, Sequence[int | str | None]]


class Place(NamedTuple):
    """Where a stream is: tokens from `start` to `stop`, of the pass `turn`, or of all passes (None)."""

    start: int
    stop: int
    turn: int | None = None


def passes(spans: Spans) -> int:
    """How many rows of the sequence make one sample."""
    return 1 + max((int(span[2] or 0) for span in spans.values() if len(span) > 2), default=0)


def resolve(spans: Spans, inputs: Mapping[str, Any], length: int) -> dict[str, Place]:
    """Stream -> its place in a sequence of `length`, in order of position; empty spans are left out.

    Raises:
        ValueError: an input that is not there, a span outside of the sequence, or two that overlap.
    """
    found: dict[str, Place] = {}
    for m, (start, stop, *turn) in spans.items():
        low = 0 if start is None else _boundary(m, start, inputs, length)
        high = length if stop is None else _boundary(m, stop, inputs, length)
        if not 0 <= low <= high <= length:
            raise ValueError(
                f"spans[{m!r}] = {[start, stop]} is [{low}, {high}] in a sequence of {length} tokens"
            )
        if low < high:
            found[m] = Place(low, high, *turn)  # type: ignore[arg-type]
    ordered = dict(sorted(found.items(), key=lambda item: item[1][:2]))
    for number in range(passes(spans)):
        at, before = 0, ""
        for m, place in ordered.items():
            if place.turn not in (None, number):
                continue
            if place.start < at:
                raise ValueError(f"spans of {before!r} and {m!r} overlap, in a sequence of {length} tokens")
            at, before = place.stop, m
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


def split(x: Tensor, places: Mapping[str, Place], turns: int = 1) -> dict[str, Tensor]:
    """`(B·turns, N, ...)` -> stream -> `(B, N_m, ...)`; what is of all passes stands side by side."""
    by_turn = x.unflatten(0, (-1, turns))  # (B, turns, N, ...)
    return {
        m: by_turn[:, :, p.start : p.stop].flatten(1, 2)
        if p.turn is None
        else by_turn[:, p.turn, p.start : p.stop]
        for m, p in places.items()
    }


def join(updates: Mapping[str, Tensor], places: Mapping[str, Place], like: Tensor, turns: int = 1) -> Tensor:
    """Updates of spans -> update of the sequence, as `like`, `(B·turns, N, D)`; zero between them."""
    rows = [_row(updates, places, like, turn, turns) for turn in range(turns)]
    return rows[0] if turns == 1 else torch.stack(rows, 1).flatten(0, 1)


def _row(
    updates: Mapping[str, Tensor], places: Mapping[str, Place], like: Tensor, turn: int, turns: int
) -> Tensor:
    """Update of one pass of every sample, `(B, N, D)`."""
    nothing = like[: len(like) // turns]
    parts, at = [], 0
    for m, place in places.items():
        if place.turn not in (None, turn):
            continue
        if place.start > at:
            parts.append(torch.zeros_like(nothing[:, at : place.start]))
        parts.append(updates[m] if place.turn is not None else updates[m].chunk(turns, 1)[turn])
        at = place.stop
    if at < like.shape[1]:
        parts.append(torch.zeros_like(nothing[:, at:]))
    return torch.cat(parts, 1)

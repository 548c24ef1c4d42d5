"""Lockstep: unmodified towers, each in a greenlet, pausing at their fusion points until all are there.

    tower A  ──block 1── pause ┐         ┌ resume ──block 2── …
    tower B  ──block 1── pause ┴─ layer ─┴ resume ──block 2── …

A pause costs about a microsecond and no thread: autograd, checkpointing of blocks, DDP and FSDP see one
ordinary forward. The wrapper around a block calls `arrive`; whoever owns the towers calls `lockstep`.
"""

from collections.abc import Callable, Collection, Mapping
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from math import gcd
from typing import Any

import torch
from greenlet import GreenletExit, getcurrent, greenlet
from torch import Tensor, nn

from hmmoe.layer import HMMoELayer, Read
from hmmoe.streams.recall import Recall
from hmmoe.streams.record import note


@dataclass(frozen=True, eq=False)
class Link:
    """One stream's end of a fusion point, kept by the wrapper around its block.

    Attributes:
        adapter: name of the adapter.
        point: number of the fusion point.
        stream: the stream whose block is wrapped; "" where all streams are spans of its sequence.
        streams: all streams of the point.
        widths: their widths.
        layer: the point's `HMMoELayer` in a tuple, so that sharing it between wrappers registers nothing
            twice.
    """

    adapter: str
    point: int
    stream: str
    streams: tuple[str, ...]
    widths: Mapping[str, int]
    layer: tuple[nn.Module]


@dataclass
class _Arrival:
    link: Link
    states: Tensor  # (R, N, D)
    mask: Tensor | None  # (R, N)
    lead: Tensor | None  # (R, N), of a causal stream


@dataclass
class _Run:
    """One forward of towers in lockstep."""

    streams: tuple[str, ...]
    folds: Mapping[str, int]
    present: Mapping[str, Tensor]
    rows: Mapping[str, Tensor]
    mode: tuple
    known: Recall | None
    keep: Recall | None
    causal: Collection[str]


_RUN: ContextVar[_Run | None] = ContextVar("hmmoe_run", default=None)
STREAM: ContextVar[str | None] = ContextVar("hmmoe_stream", default=None)  # whose tower is running


def running() -> bool:
    """Is this code called by a tower in lockstep?"""
    return _RUN.get() is not None


def is_causal(stream: str) -> bool:
    """Is this the tower of a causal stream of the run?"""
    run = _RUN.get()
    return run is not None and stream in run.causal


def arrive(link: Link, states: Tensor, mask: Tensor | None, lead: Tensor | None = None) -> Tensor:
    """Pause the calling tower until the other streams of the point are there; returns its update `(R, N, D)`.

    Args:
        link: where the tower is.
        states: `(R, N, D)`.
        mask: `(R, N)` bool or None, True for real tokens.
        lead: of a causal stream the tokens that all others see, `(R, N)` bool.

    Raises:
        RuntimeError: called outside `lockstep`, or in another grad or autocast mode than the run began in.
    """
    run = _RUN.get()
    if run is None:
        raise RuntimeError(
            f"stream {link.stream!r} came to fusion point {link.point} outside of a lockstep run; call the "
            "whole model, not the tower, and put activation checkpointing inside adapted blocks "
            "(gradient_checkpointing_enable of MultimodalModel does), not around them"
        )
    _same_mode(run, link, "came to")
    update = getcurrent().parent.switch(_Arrival(link, states, mask, lead))
    _same_mode(run, link, "went on from")
    return update


@torch.compiler.disable
def lockstep(
    calls: Mapping[str, Callable[[], Any]],
    *,
    folds: Mapping[str, int] | None = None,
    present: Mapping[str, Tensor] | None = None,
    rows: Mapping[str, Tensor] | None = None,
    known: Recall | None = None,
    keep: Recall | None = None,
    causal: Collection[str] = (),
) -> dict[str, Any]:
    """Run towers side by side; at every fusion point they wait for each other.

    Args:
        calls: stream -> a call of its tower. A stream of a fusion point that is not here is missing.
        folds: stream -> how many rows of its tower make one sample (frames, segments); 1 if left out.
        present: stream -> `(B,)` bool, False where the stream is missing for that sample.
        rows: stream -> `(R,)` the samples that its tower runs, if not all; such a stream is in `present` too.
        known: streams that have run already; those that run now read them.
        keep: is given what later streams read of those that run now.
        causal: streams whose tokens must not learn of later ones.

    Returns:
        stream -> what its call returned.

    Raises:
        RuntimeError: towers wait for fusion points that cannot come.
        ValueError: the streams' batch sizes do not fit.
    """
    run = _Run(
        tuple(calls), dict(folds or {}), dict(present or {}), dict(rows or {}), _mode(), known, keep, causal
    )
    results: dict[str, Any] = {}
    waiting: dict[str, _Arrival] = {}
    towers: dict[str, greenlet] = {}

    def advance(stream: str, *update: Tensor) -> None:
        said = towers[stream].switch(*update)
        if towers[stream].dead:
            results[stream] = said
        else:
            waiting[stream] = said

    try:
        for stream, call in calls.items():
            towers[stream] = greenlet(call)
            context = copy_context()
            context.run(_RUN.set, run)
            context.run(STREAM.set, stream)
            towers[stream].gr_context = context
            advance(stream)
        while waiting:
            meeting = _complete(waiting, run)
            if not meeting:
                raise RuntimeError(_stuck(waiting, run))
            updates = _meet({stream: waiting.pop(stream) for stream in meeting}, run)
            for stream in meeting:
                advance(stream, updates[stream])
    finally:
        for tower in towers.values():
            if tower and not tower.dead:
                tower.throw(GreenletExit)
    return {stream: results[stream] for stream in calls}


def _complete(waiting: Mapping[str, _Arrival], run: _Run) -> list[str]:
    """Streams of a fusion point that all streams it has in this run have reached."""
    for arrival in waiting.values():
        link = arrival.link
        expected = [s for s in run.streams if s in link.streams]
        if all(
            s in waiting and (waiting[s].link.adapter, waiting[s].link.point) == (link.adapter, link.point)
            for s in expected
        ):
            return expected
    return []


def _stuck(waiting: Mapping[str, _Arrival], run: _Run) -> str:
    places = [f"{s!r} waits at fusion point {a.link.point}" for s, a in waiting.items()]
    done = [f"{s!r} has ended" for s in run.streams if s not in waiting]
    return (
        f"streams cannot meet: {', '.join(places + done)}; every tower must run its adapted blocks once and "
        "in order (layer drop, early exit and shared blocks break that)"
    )


def _meet(arrivals: dict[str, _Arrival], run: _Run) -> dict[str, Tensor]:
    """Bring the streams to a common number of rows, call the layer, give each its update back."""
    link = next(iter(arrivals.values())).link
    folds = {s: run.folds.get(s, 1) for s in arrivals}
    clock = gcd(*folds.values())  # groups per sample: T/clock frames meet S/clock segments
    groups = _batch(link, arrivals, folds, run) * clock
    arrivals = {
        s: _of_all(a, run.rows[s], len(run.present[s]), folds[s]) if s in run.rows else a
        for s, a in arrivals.items()
    }
    states, masks = {}, {}
    for s, a in arrivals.items():
        states[s] = a.states.reshape(groups, -1, a.states.shape[-1])  # (B*g, T/g*N, D)
        mask = _with_missing(a, run.present.get(s), folds[s])
        if mask is not None:
            masks[s] = mask.reshape(groups, -1)
    fresh: dict[str, Read] = {}
    options = _asymmetric(link, arrivals, run, fresh)
    updates, routing = link.layer[0](states, masks, steps=clock, **options)
    if run.keep is not None:
        run.keep.put(link, fresh, clock)
    note(link.adapter, link.point, routing, updates)
    back = {s: updates[s].reshape(a.states.shape) for s, a in arrivals.items()}
    return {s: _of_rows(u, run.rows[s], folds[s]) if s in run.rows else u for s, u in back.items()}


def _batch(link: Link, arrivals: Mapping[str, _Arrival], folds: Mapping[str, int], run: _Run) -> int:
    """Samples of the run, of which every stream must have brought all that its tower was given."""
    rows = {s: len(a.states) for s, a in arrivals.items()}
    batches = set()
    for s, n in rows.items():
        samples = n // folds[s] if n % folds[s] == 0 else -1
        if s in run.rows:
            samples = len(run.present[s]) if samples == len(run.rows[s]) else -1
        batches.add(samples)
    if len(batches) > 1 or -1 in batches:
        said = ", ".join(
            f"{s!r} {n} rows" + (f" of {folds[s]} each" if folds[s] > 1 else "") for s, n in rows.items()
        )
        raise ValueError(f"streams must have the same batch size at fusion point {link.point}, got {said}")
    return batches.pop()


def _of_rows(x: Tensor, rows: Tensor, fold: int) -> Tensor:
    """Some samples of `(B * fold, ...)`, `(R * fold, ...)`."""
    return x.unflatten(0, (-1, fold))[rows].flatten(0, 1)


def to_all(x: Tensor, rows: Tensor, batch: int, fold: int) -> Tensor:
    """`(R * fold, ...)` among zeros (or False) for the samples that did not run, `(batch * fold, ...)`."""
    nothing = x.new_zeros(batch, fold, *x.shape[1:])
    return nothing.index_copy(0, rows, x.unflatten(0, (-1, fold))).flatten(0, 1)


def _of_all(arrival: _Arrival, rows: Tensor, batch: int, fold: int) -> _Arrival:
    """The arrival of a tower that runs some samples, as if it had run all."""
    states = to_all(arrival.states, rows, batch, fold)
    told, ran = [arrival.mask, arrival.lead], len(arrival.states)
    mask, lead = [x if x is None or len(x) != ran else to_all(x, rows, batch, fold) for x in told]
    return _Arrival(arrival.link, states, mask, lead)


def _asymmetric(
    link: Link, arrivals: Mapping[str, _Arrival], run: _Run, fresh: dict[str, Read]
) -> dict[str, Any]:
    """What a layer is told beyond the states of this meeting; nothing where all streams run together."""
    told: dict[str, Any] = {}
    if run.known is not None:
        told["known"] = run.known.at(link)
    if run.keep is not None:
        told["keep"] = fresh
    lead = {s: a.lead for s, a in arrivals.items() if a.lead is not None}
    if lead:
        told["lead"] = lead
    if told and not isinstance(link.layer[0], HMMoELayer):
        raise ValueError(
            f"{type(link.layer[0]).__name__} needs all streams at once, but {', '.join(run.streams)} ran by "
            "themselves, before or after others; only HMMoE's own layers can read what ran before"
        )
    return told


def _with_missing(arrival: _Arrival, present: Tensor | None, fold: int) -> Tensor | None:
    """The stream's mask `(R, N)`, without the samples that lack the stream."""
    rows, tokens = arrival.states.shape[:2]
    mask = arrival.mask
    if mask is not None and (mask.shape[1] != tokens or len(mask) not in (1, rows)):
        raise ValueError(
            f"stream {arrival.link.stream!r} has {rows} rows of {tokens} tokens at fusion point "
            f"{arrival.link.point}, but its block was told a padding mask of {tuple(mask.shape)}"
        )
    if mask is not None and len(mask) != rows:
        mask = mask.expand(rows, tokens)
    if present is None:
        return mask
    there = present.repeat_interleave(fold)[:, None].expand(rows, tokens)
    return there if mask is None else mask & there


def _mode() -> tuple:
    """What a tower must not change between fusion points, since the others run in between."""
    top = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        *((torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in ("cpu", "cuda")),
        top(True) if top else None,
    )


def _same_mode(run: _Run, link: Link, doing: str) -> None:
    if _mode() != run.mode:
        raise RuntimeError(
            f"stream {link.stream!r} {doing} fusion point {link.point} in another grad, autocast or "
            "checkpoint mode than the run began in; keep no_grad, autocast and activation checkpointing "
            "inside blocks or around the whole model"
        )

"""Lockstep by itself, with towers that are plain functions."""

from contextvars import ContextVar
from functools import partial

import pytest
import torch
from greenlet import getcurrent
from torch import nn
from torch.utils.checkpoint import checkpoint

from hmmoe.layer import Routing
from hmmoe.streams import lockstep
from hmmoe.streams.lockstep import Link, arrive, running


class Swap(nn.Module):
    """Every stream's update is the mean of all streams' tokens; remembers what it was given."""

    def forward(self, states, masks, steps=1):
        self.seen = {m: tuple(x.shape) for m, x in states.items()}, masks
        total = sum(x.mean(1, keepdim=True) for x in states.values())
        return {m: total.expand_as(x) for m, x in states.items()}, Routing(
            {}, lambda: (torch.zeros(()), torch.zeros(()))
        )


def links(*streams: str, layer: nn.Module | None = None, point: int = 0) -> dict[str, Link]:
    shared = (layer or Swap(),)
    return {m: Link("default", point, m, streams, {}, shared) for m in streams}


def test_streams_wait_for_each_other_and_get_their_updates():
    first, second = links("a", "b"), links("a", "b", point=1)
    order = []

    def tower(m: str, x: torch.Tensor) -> torch.Tensor:
        for i, point in enumerate((first, second)):
            order.append(f"{m}{i}")
            x = x + arrive(point[m], x, None)
        return x

    a, b = torch.ones(2, 3, 4), 2 * torch.ones(2, 5, 4)
    out = lockstep({"a": lambda: tower("a", a), "b": lambda: tower("b", b)})
    assert order == ["a0", "b0", "a1", "b1"]
    torch.testing.assert_close(out["a"], torch.full((2, 3, 4), 13.0))  # 1 + 3, then + 4 + 5
    torch.testing.assert_close(out["b"], torch.full((2, 5, 4), 14.0))


def test_a_stream_that_is_not_there_is_not_waited_for():
    point = links("a", "b")
    out = lockstep({"a": lambda: arrive(point["a"], torch.ones(1, 2, 4), None)})
    torch.testing.assert_close(out["a"], torch.ones(1, 2, 4))


@pytest.mark.parametrize(("frames", "segments", "rows"), [(4, 2, 6), (4, 4, 12), (3, 2, 3), (4, 1, 3)])
def test_folded_streams_meet_on_their_finest_common_clock(frames, segments, rows):
    point = links("video", "audio")
    video = torch.randn(3 * frames, 5, 4, dtype=torch.float64)
    audio = torch.randn(3 * segments, 7, 4, dtype=torch.float64)
    mask = torch.rand(3 * segments, 7) > 0.3
    out = lockstep(
        {
            "video": lambda: arrive(point["video"], video, None),
            "audio": lambda: arrive(point["audio"], audio, mask),
        },
        folds={"video": frames, "audio": segments},
        present={"audio": torch.tensor([True, False, True])},
    )
    shapes, masks = point["video"].layer[0].seen
    clock = rows // 3
    assert shapes == {"video": (rows, frames // clock * 5, 4), "audio": (rows, segments // clock * 7, 4)}
    assert torch.equal(masks["audio"].reshape(3, -1)[1], torch.zeros(segments * 7, dtype=torch.bool))
    assert torch.equal(masks["audio"].reshape(3, -1)[0], mask[:segments].flatten())
    # frame t of sample b meets the segments of its own clock tick
    total = video.reshape(rows, -1, 4).mean(1) + audio.reshape(rows, -1, 4).mean(1)
    torch.testing.assert_close(
        out["video"], total[:, None, None].expand(rows, frames // clock, 5, 4).flatten(0, 1)
    )


@pytest.mark.parametrize(
    ("folds", "says"),
    [({}, "'a' 2 rows, 'b' 3 rows"), ({"a": 2, "b": 2}, "'b' 3 rows of 2 each")],
)
def test_batch_sizes_that_do_not_fit_are_named(folds, says):
    point = links("a", "b")
    with pytest.raises(ValueError, match=f"same batch size at fusion point 0, got.*{says}"):
        lockstep(
            {
                "a": lambda: arrive(point["a"], torch.ones(2, 3, 4), None),
                "b": lambda: arrive(point["b"], torch.ones(3, 3, 4), None),
            },
            folds=folds,
        )


def test_a_tower_that_gives_other_rows_than_the_samples_it_was_given_is_named():
    point = links("a", "b")
    with pytest.raises(ValueError, match="same batch size at fusion point 0, got 'a' 3 rows, 'b' 3 rows"):
        lockstep(
            {m: partial(arrive, point[m], torch.ones(3, 3, 4), None) for m in ("a", "b")},
            present={"b": torch.tensor([True, False, True])},
            rows={"b": torch.tensor([0, 2])},
        )


def test_a_padding_mask_of_another_length_is_named():
    point = links("a")
    with pytest.raises(ValueError, match=r"'a' has 2 rows of 3 tokens.*mask of \(2, 9\)"):
        lockstep({"a": lambda: arrive(point["a"], torch.ones(2, 3, 4), torch.ones(2, 9, dtype=torch.bool))})


def test_a_tower_that_skips_its_point_is_an_error_and_leaves_nothing_behind():
    point = links("a", "b")
    left = []

    def waits() -> None:
        try:
            arrive(point["a"], torch.ones(1, 1, 4), None)
        finally:
            left.append("a")

    with pytest.raises(RuntimeError, match=r"'a' waits at fusion point 0, 'b' has ended.*layer drop"):
        lockstep({"a": waits, "b": lambda: None})
    assert left == ["a"]
    assert not running()


def test_an_error_in_one_tower_unwinds_the_others_and_their_modes():
    point = links("a", "b")

    def breaks() -> None:
        raise KeyError("inside tower b")

    with pytest.raises(KeyError, match="inside tower b"):
        lockstep({"a": lambda: arrive(point["a"], torch.ones(1, 1, 4), None), "b": breaks})
    assert torch.is_grad_enabled()
    assert getcurrent().parent is None
    out = lockstep({m: lambda m=m: arrive(point[m], torch.ones(1, 1, 4), None) for m in "ab"})
    torch.testing.assert_close(out["a"], torch.full((1, 1, 4), 2.0))


def test_a_fusion_point_outside_of_a_run_is_an_error():
    with pytest.raises(RuntimeError, match="outside of a lockstep run"):
        arrive(links("a")["a"], torch.ones(1, 1, 4), None)


def under_no_grad(call):
    with torch.no_grad():
        return call()


def under_autocast(call):
    with torch.autocast("cpu", torch.bfloat16):
        return call()


def under_checkpoint(call):
    return checkpoint(lambda x: call() + x, torch.ones(1, requires_grad=True), use_reentrant=False)


@pytest.mark.parametrize("around", [under_no_grad, under_autocast, under_checkpoint])
def test_a_mode_that_would_leak_into_the_other_tower_is_an_error(around):
    point = links("a", "b")

    def call(m: str):
        return arrive(point[m], torch.ones(1, 1, 4), None)

    with pytest.raises(RuntimeError, match="another grad, autocast or checkpoint mode"):
        lockstep({"a": lambda: around(lambda: call("a")), "b": lambda: call("b")})


@pytest.mark.parametrize("around", [under_no_grad, under_autocast])
def test_modes_around_the_whole_run_are_fine(around):
    point = links("a", "b")
    out = around(lambda: lockstep({m: lambda m=m: arrive(point[m], torch.ones(1, 1, 4), None) for m in "ab"}))
    torch.testing.assert_close(out["a"], torch.full((1, 1, 4), 2.0))


def test_towers_have_context_variables_of_their_own():
    name: ContextVar[str] = ContextVar("name", default="nobody")
    point = links("a", "b")

    def tower(m: str) -> str:
        name.set(m)
        arrive(point[m], torch.ones(1, 1, 4), None)
        return name.get()

    assert lockstep({m: lambda m=m: tower(m) for m in "ab"}) == {"a": "a", "b": "b"}
    assert name.get() == "nobody"

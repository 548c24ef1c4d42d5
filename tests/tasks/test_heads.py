"""Heads pool real tokens only and take a missing stream as zeros."""

import torch
from torch.testing import assert_close

from hmmoe.tasks.heads import PooledHead, mean_tokens, summary


def test_padding_does_not_count():
    x = torch.randn(2, 4, 3)
    mask = torch.tensor([[True, True, False, False], [True] * 4])
    got = mean_tokens(x, mask)
    assert_close(got[0], x[0, :2].mean(0))
    assert_close(got[1], x[1].mean(0))
    assert_close(mean_tokens(x, None), x.mean(1))


def test_a_sample_without_any_token_gives_zeros_and_no_nan():
    x = torch.randn(1, 4, 3)
    assert mean_tokens(x, torch.zeros(1, 4, dtype=torch.bool)).eq(0).all()


def test_a_streams_scale_does_not_matter():
    x = torch.randn(2, 4, 8)
    assert_close(summary(x, None), summary(100 * x, None), atol=1e-3, rtol=1e-3)
    assert summary(x, torch.zeros(2, 4, dtype=torch.bool)).eq(0).all()


def test_folded_streams_are_answered_per_item():
    head = PooledHead({"video": 3, "audio": 2}, 5)
    states = {"video": torch.randn(2, 10, 4, 3), "audio": torch.randn(2, 10, 7, 2)}
    logits = head(states, {"video": None, "audio": None})
    assert logits.shape == (2, 10, 5)
    one = {m: x[:, 3] for m, x in states.items()}
    assert_close(head(one, dict.fromkeys(one)), logits[:, 3])
    assert head.loss(logits, torch.zeros(2, 10, dtype=torch.long)).ndim == 0


def test_a_missing_stream_is_as_one_without_tokens():
    head = PooledHead({"a": 3, "b": 2}, 5)
    a, b = torch.randn(2, 4, 3), torch.randn(2, 6, 2)
    none = torch.zeros(2, 6, dtype=torch.bool)
    assert_close(head({"a": a}, {"a": None}), head({"a": a, "b": b}, {"a": None, "b": none}))


def test_the_order_in_which_streams_come_does_not_matter():
    head = PooledHead({"a": 3, "b": 2}, 5)
    a, b = torch.randn(2, 4, 3), torch.randn(2, 6, 2)
    none = {"a": None, "b": None}
    assert torch.equal(head({"a": a, "b": b}, none), head({"b": b, "a": a}, none))

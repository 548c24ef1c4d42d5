"""Two sides in one space: length, missing streams, and the symmetric loss with its exceptions."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from hmmoe.tasks.heads import summary
from hmmoe.tasks.joint_head import JointHead

WIDTHS = {"image": 6, "text": 4, "speech": 5}
SIDES = {"query": ("text", "speech"), "image": ("image",)}


def _head():
    return JointHead(WIDTHS, 8, sides=SIDES)


def _states(batch=3):
    return {m: torch.randn(batch, 7, width) for m, width in WIDTHS.items()}


def _unit(rows=3):
    return F.normalize(torch.randn(rows, 8), dim=-1)


def test_both_sides_have_length_one_and_a_side_is_the_sum_of_its_streams():
    head, states = _head(), _states()
    out = head(states, dict.fromkeys(states))
    assert list(out) == ["query", "image"]
    assert_close(out["image"].norm(dim=-1), torch.ones(3))
    parts = [head.project[m](summary(states[m], None)) for m in ("text", "speech")]
    assert_close(out["query"], F.normalize(parts[0] + parts[1], dim=-1))


def test_a_stream_missing_from_one_sample_or_from_all_adds_nothing():
    head, states = _head(), _states()
    alone = F.normalize(head.project["text"](summary(states["text"], None)), dim=-1)
    only = {m: x for m, x in states.items() if m != "speech"}
    assert_close(head(only, {})["query"], alone)
    mask = torch.tensor([True, False, True])[:, None].expand(3, 7)
    assert_close(head(states, {"speech": mask})["query"][1], alone[1])


def test_a_side_without_any_stream_is_zero():
    head, states = _head(), _states()
    assert not head({"image": states["image"]}, {})["query"].any()
    nowhere = torch.zeros(3, 7, dtype=torch.bool)
    assert not head(states, {"image": nowhere})["image"].any()


def test_the_items_of_a_folded_stream_are_one_sequence():
    head, states = _head(), _states()
    folded = states | {"image": torch.randn(3, 2, 7, 6)}
    flat = states | {"image": folded["image"].flatten(1, 2)}
    assert_close(head(folded, {})["image"], head(flat, {})["image"])


def test_the_loss_is_symmetric_infonce():
    head = _head()
    q, g = _unit(), _unit()
    want = 0.0
    for a, b in ((q, g), (g, q)):
        for i in range(3):
            scores = [math.exp((a[i] @ b[j]).item() / 0.07) for j in range(3)]
            want -= math.log(scores[i] / sum(scores)) / 6
    assert head.loss({"query": q, "image": g}, torch.arange(3)).item() == pytest.approx(want, rel=1e-4)


def test_rows_about_one_item_are_no_wrong_answers_to_each_other():
    head = _head()
    q, g = _unit(), _unit()
    scores = q @ g.T / 0.07
    scores[0, 1] = scores[1, 0] = -torch.inf
    truth = torch.arange(3)
    want = (F.cross_entropy(scores, truth) + F.cross_entropy(scores.T, truth)) / 2
    labels = torch.tensor([[4, 4], [4, 4], [9, 9]])
    assert_close(head.loss({"query": q, "image": g}, labels), want)


def test_rows_without_a_side_are_left_out_of_the_loss():
    head = _head()
    q, g = _unit(), _unit()
    labels = torch.tensor([[0, 0], [1, -1], [2, 2]])
    want = head.loss({"query": q[[0, 2]], "image": g[[0, 2]]}, torch.tensor([0, 2]))
    assert_close(head.loss({"query": q, "image": g}, labels), want)
    alone = head.loss({"query": q, "image": torch.zeros(3, 8)}, torch.tensor([[0, -1], [1, -1], [2, -1]]))
    assert torch.isfinite(alone)


def test_a_side_without_a_stream_is_refused():
    with pytest.raises(ValueError, match="needs the streams text or speech and image, got text"):
        JointHead({"text": 4}, 8, sides=SIDES)

"""Modality dropout in training: how often, what is never left out, and that a run learns under it."""

import pytest
import torch
from torch import nn

import hmmoe
from hmmoe.engine.modality_dropout import ModalityDropout
from hmmoe.engine.train import train

BATCH = 4000


def model(groups=None, streams="abc"):
    towers = {m: nn.Sequential(nn.Linear(2, 2)) for m in streams}
    return hmmoe.MultimodalModel(towers, nn.Linear(1, 1), groups=groups)


def batch(**present):
    inputs = {m: {"x": torch.zeros(BATCH, 1, 2)} for m in "abc"}
    return {"index": torch.arange(BATCH), **inputs, **({"present": present} if present else {})}


def test_one_stream_of_the_asked_share_of_samples_is_left_out():
    inputs = batch()
    out = ModalityDropout(model(), 0.3)(inputs)
    gone = torch.stack([~out["present"][m] for m in "abc"])
    assert gone.sum(0).max() == 1
    assert gone.any(0).float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert gone.float().mean(1).tolist() == pytest.approx([0.1] * 3, abs=0.02)
    assert "present" not in inputs
    assert out["a"] is inputs["a"]


def test_a_stream_alone_in_its_group_or_in_its_sample_stays():
    out = ModalityDropout(model([["a"], ["b", "c"]]), 0.9)(batch())
    assert set(out["present"]) == {"b", "c"}
    only_b = batch(a=torch.zeros(BATCH, dtype=torch.bool), c=torch.zeros(BATCH, dtype=torch.bool))
    present = ModalityDropout(model(), 0.9)(only_b)["present"]
    assert present["b"].all()
    assert not present["a"].any()


def test_one_tower_has_nothing_to_leave_out():
    with pytest.raises(ValueError, match=r"train\.modality_dropout needs towers of which one"):
        ModalityDropout(model(streams="a"), 0.1)


@pytest.mark.parametrize("name", ["frozen", "hmmoe"])
def test_a_run_trains_under_it_and_is_tested_without(recipe, tmp_path, name):
    method = {"name": name} | ({"budget": 0.5, "points": 2} if name == "hmmoe" else {})
    options = {"modality_dropout": 0.5, "max_steps": 4, "evaluations": 2}
    dropped = train(recipe(method=method, train=options, prefix_cache=True), tmp_path / "dropped")
    plain = train(recipe(method=method, train=options | {"modality_dropout": 0.0}), tmp_path / "plain")
    assert dropped["curves"]["train"][0]["loss"] != plain["curves"]["train"][0]["loss"]
    assert dropped["rows"] == plain["rows"]

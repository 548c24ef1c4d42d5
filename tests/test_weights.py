"""Weights are read whole, from safetensors, into what they were saved from; anything else is one sentence."""

import pytest
import torch
from safetensors.torch import save_file

from hmmoe.weights import load_into


def state():
    return {"a": torch.zeros(2, 3), "b": torch.zeros(4)}


def test_tensors_are_copied_in_place(tmp_path):
    saved = {name: torch.randn_like(x) for name, x in state().items()}
    save_file(saved, tmp_path / "w.safetensors")
    into = state()
    load_into(dict(into), tmp_path / "w.safetensors", "adapter")
    assert all(torch.equal(into[name], x) for name, x in saved.items())


@pytest.mark.parametrize(
    ("saved", "says"),
    [
        ({"a": torch.ones(2, 3)}, r"another adapter: b is missing there and \(4,\) in this model"),
        ({**state(), "c": torch.ones(1)}, r"another adapter: c is \(1,\) there and missing in this model"),
        ({**state(), "a": torch.ones(3, 2)}, r"a is \(3, 2\) there and \(2, 3\) in this model"),
    ],
)
def test_another_models_weights_are_refused_before_anything_changes(saved, says, tmp_path):
    save_file(saved, tmp_path / "w.safetensors")
    into = state()
    with pytest.raises(ValueError, match=says):
        load_into(into, tmp_path / "w.safetensors", "adapter")
    assert not any(x.any() for x in into.values())


def test_files_that_are_missing_cut_or_pickled_are_refused(tmp_path):
    file = tmp_path / "w.safetensors"
    with pytest.raises(FileNotFoundError, match=r"w\.safetensors do not exist"):
        load_into(state(), file, "adapter")
    save_file(state(), file)
    whole = file.read_bytes()
    torch.save(state(), file)
    with pytest.raises(ValueError, match=r"w\.safetensors is cut short or no safetensors file"):
        load_into(state(), file, "adapter")
    for length in (0, 5, 40, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"w\.safetensors is cut short or no safetensors file"):
            load_into(state(), file, "adapter")

"""Sequential adapters against hooks on the layers that the test names, in float64 with gradients."""

import math

import pytest
import torch
from towers import BERT, CLIP, batch, built, compare, new_parameters

PLACES = [
    CLIP.format(1) + "self_attn.out_proj",
    CLIP.format(1) + "mlp.fc2",
    CLIP.format(3) + "self_attn.out_proj",
    CLIP.format(3) + "mlp.fc2",
    BERT.format(0) + "attention.output.dense",
    BERT.format(0) + "output.dense",
    BERT.format(1) + "attention.output.dense",
    BERT.format(1) + "output.dense",
]


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def after(p):
    def hook(module, args, h):
        d, u = p["down.weight"], p["up.weight"]
        return h + gelu(h @ d.T + p["down.bias"]) @ u.T + p["up.bias"]

    return hook


def test_equals_hooks_after_attention_and_mlp():
    _, model, plain = built("adapter", rank=3, points=2)
    new = new_parameters(model, plain)
    inside = {
        place: {k.rpartition("adapter.")[2]: v for k, v in new.items() if k.startswith(place)}
        for place in PLACES
    }
    assert sum(len(parameters) for parameters in inside.values()) == len(new) == 4 * len(PLACES)
    compare(model, plain, {place: after(p) for place, p in inside.items()}, batch(), list(new.values()))


def test_the_start_is_the_frozen_model_exactly():
    _, model, plain = built("adapter", rank=3, points=2)
    with torch.no_grad():
        for name, p in new_parameters(model, plain).items():
            if ".up." in name:
                p.zero_()
    inputs = batch()
    assert torch.equal(model.eval()(**inputs).logits, plain.eval()(**inputs).logits)


@pytest.mark.parametrize("points", [1, 2])
def test_points_are_those_of_hmmoe(points):
    _, model, plain = built("adapter", rank=1, points=points)
    blocks = {k.split("mlp")[0].split("self_attn")[0] for k in new_parameters(model, plain) if "image" in k}
    assert blocks == {CLIP.format(i) for i in ((3,) if points == 1 else (1, 3))}

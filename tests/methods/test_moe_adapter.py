"""The homogeneous mixture is HMMoE's layer with affine experts only, equal to that layer's slow reference."""

import torch
from rivals import same_with_gradients
from towers import batch

from hmmoe.layer import HMMoELayer
from hmmoe.methods import make_method
from reference import hmmoe_reference
from small import pair


def layers(model):
    return [m for m in model.modules() if isinstance(m, HMMoELayer)]


def test_every_point_has_the_same_affine_expert_so_many_times():
    model = make_method({"name": "moe_adapter", "rank": 2, "points": 2, "experts": 5}).build(pair())
    assert [layer.counts for layer in layers(model)] == [{"affine": 5}] * 2
    assert model(**batch_of_float()).loss.isfinite()


def test_its_layer_equals_the_slow_reference():
    model = make_method({"name": "moe_adapter", "rank": 2, "points": 1, "experts": 3}).build(pair())
    layer = layers(model)[0].double()
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.3 * torch.randn_like(p))
    states = {
        m: torch.randn(2, n, d, dtype=torch.float64, requires_grad=True)
        for m, n, d in (("image", 5, 16), ("text", 4, 24))
    }
    updates, routing = layer(states)
    theirs, weights, _, _ = hmmoe_reference(layer, states)
    same_with_gradients(updates, theirs, [*layer.parameters(), *states.values()])
    for m in weights:
        torch.testing.assert_close(routing.weights[m], weights[m])


def batch_of_float():
    inputs = batch()
    inputs["image"]["pixel_values"] = inputs["image"]["pixel_values"].float()
    return inputs

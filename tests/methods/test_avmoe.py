"""AVMoE against a slow computation of its equation, in float64 with gradients, low-rank and as published."""

import pytest
import torch
from rivals import (
    CASES,
    COUNTS,
    WIDTHS,
    awake,
    cross_reference,
    gated_bottleneck,
    latent_attention,
    other_tokens,
    padding,
    same_with_gradients,
    softmax,
    streams,
)

from hmmoe.methods import make_method
from hmmoe.methods.parts.avmoe import AVMoEAdapter
from hmmoe.methods.parts.cross import CrossLayer


def gates(p, x, mask, read):
    """One list of expert weights per sample."""
    found = []
    for b in range(len(x)):
        others, zero = other_tokens(p, read, b), torch.zeros_like(x[b, 0])
        own = [x[b, i] for i in range(x.shape[1]) if mask[b, i]]
        h = torch.cat([sum(own, zero) / max(1, len(own)), sum(others, zero) / max(1, len(others))])
        for i in (0, 2, 4):
            h = p[f"router.{i}.weight"] @ h + p[f"router.{i}.bias"]
            h = h if i == 4 else h.clamp(min=0)
        found.append(softmax(list(h)))
    return found


def avmoe(p, x, mask, read, norm, cross=1, uni=1):
    p_e = gates(p, x, mask, read)
    update = 0
    for e in range(cross + uni):
        rows = [list(sample) for sample in x]
        if e < cross:
            q = f"attentions.{e}."
            rows = [latent_attention(p, q, r, other_tokens(p, read, b)) for b, r in enumerate(rows)]
        expert = gated_bottleneck(p, f"bottlenecks.{e}.", rows, mask, norm, relu=e < cross)
        update = update + torch.stack([p_e[b][e] * expert[b] for b in range(len(x))])
    return update


def layer_of(names, rank=2, **options):
    method = make_method({"name": "avmoe", "rank": rank, "latents": 4, **options})
    return awake(method.layer({m: WIDTHS[m] for m in names}, rank))


@pytest.mark.parametrize(("names", "padded"), CASES)
@pytest.mark.parametrize("training", [False, True])
def test_equals_the_equation(names, padded, training):
    layer, states = layer_of(names).train(training), streams(names)
    masks = padding(states) if padded else {}
    theirs = cross_reference(layer, states, masks, avmoe, training)
    ours, routing = layer(states, masks)
    same_with_gradients(ours, theirs, [*layer.parameters(), *states.values()])
    for weights in routing.weights.values():
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, dtype=torch.float64))


def test_more_experts_of_both_kinds():
    layer = layer_of(("audio", "image"), cross_experts=2, uni_experts=2, batch_norm=False)
    states = streams(("audio", "image"))
    theirs = cross_reference(layer, states, {}, lambda *given: avmoe(*given, cross=2, uni=2))
    ours, routing = layer(states)
    same_with_gradients(ours, theirs, [*layer.parameters(), *states.values()])
    assert {w.shape for w in routing.weights.values()} == {(3, 4)}


def test_the_published_module_mixes_tokens():
    widths = {"audio": 4, "image": 6}

    def whole(width, others):
        n = next(iter(others))
        tokens = {n: (COUNTS[n], COUNTS["audio" if n == "image" else "image"])}
        sizes = {"cross": 1, "uni": 1, "size": 2, "router": (8, 5), "latents": 3, "groups": 2}
        return AVMoEAdapter(width, others, **sizes, batch_norm=True, rank=None, tokens=tokens)

    layer, states = awake(CrossLayer(widths, whole)).train(), streams(widths)
    theirs = cross_reference(layer, states, {}, avmoe, training=True)
    same_with_gradients(layer(states)[0], theirs, [*layer.parameters(), *states.values()])


def test_at_the_start_the_router_has_no_gradient_as_published():
    layer = make_method({"name": "avmoe", "rank": 2}).layer({"audio": 4, "image": 6}, 2).double()
    updates = layer(streams(("audio", "image")))[0]
    assert all(not update.any() for update in updates.values())
    sum((torch.randn_like(update) * update).sum() for update in updates.values()).backward()
    assert not any(p.grad.any() for adapter in layer.adapters.values() for p in adapter.router.parameters())
    assert all(b.gate.grad.any() for adapter in layer.adapters.values() for b in adapter.bottlenecks)

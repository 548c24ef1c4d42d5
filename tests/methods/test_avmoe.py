"""AVMoE against a slow computation of its equation, in float64 with gradients, low-rank and as published."""

import pytest
import torch
from rivals import (
    CASES,
    PAIR,
    equals_reference,
    gated_bottleneck,
    latent_attention,
    layer_of,
    other_tokens,
    published,
    softmax,
    streams,
)

from hmmoe.methods import make_method
from hmmoe.methods.parts.avmoe import AVMoEAdapter


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


@pytest.mark.parametrize(("names", "padded"), CASES)
@pytest.mark.parametrize("training", [False, True])
def test_equals_the_equation(names, padded, training):
    routing = equals_reference(layer_of("avmoe", names, latents=4).train(training), names, avmoe, padded)
    for weights in routing.weights.values():
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, dtype=torch.float64))


def test_more_experts_of_both_kinds():
    layer = layer_of("avmoe", PAIR, latents=4, cross_experts=2, uni_experts=2, batch_norm=False)
    routing = equals_reference(layer, PAIR, lambda *given: avmoe(*given, cross=2, uni=2))
    assert {w.shape for w in routing.weights.values()} == {(3, 4)}


def test_the_published_module_mixes_tokens():
    layer = published(AVMoEAdapter, cross=1, uni=1, size=2, router=(8, 5), latents=3)
    equals_reference(layer, PAIR, avmoe)


def test_at_the_start_the_router_has_no_gradient_as_published():
    layer = make_method({"name": "avmoe", "rank": 2}).layer({"audio": 4, "image": 6}, 2).double()
    updates = layer(streams(PAIR))[0]
    assert all(not update.any() for update in updates.values())
    sum((torch.randn_like(update) * update).sum() for update in updates.values()).backward()
    assert not any(p.grad.any() for adapter in layer.adapters.values() for p in adapter.router.parameters())
    assert all(b.gate.grad.any() for adapter in layer.adapters.values() for b in adapter.bottlenecks)

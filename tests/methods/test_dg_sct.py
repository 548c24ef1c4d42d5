"""DG-SCT against a slow computation of its equation, in float64 with gradients, low-rank and as published."""

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
    streams,
)

from hmmoe.methods import make_method
from hmmoe.methods.parts.cross import CrossLayer
from hmmoe.methods.parts.dg_sct import DGSCTAdapter


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def dg_sct(p, x, mask, read, norm, alpha=0.3, beta=0.05):
    def fc(name, v):
        return p[name + ".weight"] @ v + p[name + ".bias"]

    def relu(v):
        return v.clamp(min=0)

    seen = []
    for b in range(len(x)):
        others = other_tokens(p, read, b)
        rows = latent_attention(p, "attention.", list(x[b]), others)
        a = sum(others, torch.zeros_like(x[b, 0])) / max(1, len(others))
        real = [row for i, row in enumerate(rows) if mask[b, i]]
        zero = torch.zeros_like(p["a1.bias"])
        q = sum((relu(fc("a1", a)) * relu(fc("v1", row)) for row in real), zero) / max(1, len(real))
        c = sigmoid(fc("wc", relu(fc("wb", q))))
        s = [fc("ws", relu(fc("v2", row * (1 + c))) * relu(fc("a2", a))) for row in rows]
        seen.append(
            [row * (alpha * c + beta * sigmoid(s_) + 1 - alpha) for row, s_ in zip(rows, s, strict=True)]
        )
    return gated_bottleneck(p, "bottleneck.", seen, mask, norm)


def layer_of(names, rank=2, **options):
    method = make_method({"name": "dg_sct", "rank": rank, "latents": 4, **options})
    return awake(method.layer({m: WIDTHS[m] for m in names}, rank))


@pytest.mark.parametrize(("names", "padded"), CASES)
@pytest.mark.parametrize("training", [False, True])
def test_equals_the_equation(names, padded, training):
    layer, states = layer_of(names, rank=3).train(training), streams(names)
    masks = padding(states) if padded else {}
    theirs = cross_reference(layer, states, masks, dg_sct, training)
    same_with_gradients(layer(states, masks)[0], theirs, [*layer.parameters(), *states.values()])


def test_weights_and_missing_batch_norms_are_as_asked():
    layer, states = (
        layer_of(("audio", "image"), batch_norm=False, alpha=0.2, beta=0.1),
        streams(("audio", "image")),
    )
    theirs = cross_reference(layer, states, {}, lambda *given: dg_sct(*given, alpha=0.2, beta=0.1))
    same_with_gradients(layer(states)[0], theirs, [*layer.parameters(), *states.values()])


def test_a_missing_stream_has_no_tokens_and_mean_zero():
    layer, states = layer_of(("audio", "image")).eval(), streams(("audio",))
    theirs = cross_reference(layer, states, {}, dg_sct)
    same_with_gradients(layer(states)[0], theirs, list(states.values()))


@pytest.mark.parametrize("padded", [False, True])
def test_the_published_module_mixes_tokens(padded):
    widths = {"audio": 4, "image": 6}

    def whole(width, others):
        n = next(iter(others))
        tokens = {n: (COUNTS[n], COUNTS["audio" if n == "image" else "image"])}
        sizes = {"size": 2, "hidden": width, "latents": 3, "groups": 2}
        return DGSCTAdapter(width, others, **sizes, batch_norm=True, rank=None, tokens=tokens)

    layer, states = awake(CrossLayer(widths, whole)).train(), streams(widths)
    masks = padding(states) if padded else {}
    theirs = cross_reference(layer, states, masks, dg_sct, training=True)
    same_with_gradients(layer(states, masks)[0], theirs, [*layer.parameters(), *states.values()])


def test_starts_at_zero():
    layer = make_method({"name": "dg_sct", "rank": 2}).layer({"audio": 4, "image": 6}, 2).double()
    assert all(not update.any() for update in layer(streams(("audio", "image")))[0].values())

"""DG-SCT against a slow computation of its equation, in float64 with gradients, low-rank and as published."""

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
    streams,
)

from hmmoe.methods import make_method
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


@pytest.mark.parametrize(("names", "padded"), CASES)
@pytest.mark.parametrize("training", [False, True])
def test_equals_the_equation(names, padded, training):
    equals_reference(layer_of("dg_sct", names, rank=3, latents=4).train(training), names, dg_sct, padded)


def test_weights_and_missing_batch_norms_are_as_asked():
    layer = layer_of("dg_sct", PAIR, latents=4, batch_norm=False, alpha=0.2, beta=0.1)
    equals_reference(layer, PAIR, lambda *given: dg_sct(*given, alpha=0.2, beta=0.1))


def test_a_missing_stream_has_no_tokens_and_mean_zero():
    equals_reference(layer_of("dg_sct", PAIR, latents=4).eval(), ("audio",), dg_sct)


@pytest.mark.parametrize("padded", [False, True])
def test_the_published_module_mixes_tokens(padded):
    def adapter(width, others, **sizes):
        return DGSCTAdapter(width, others, hidden=width, **sizes)

    equals_reference(published(adapter, size=2, latents=3), PAIR, dg_sct, padded)


def test_starts_at_zero():
    layer = make_method({"name": "dg_sct", "rank": 2}).layer({"audio": 4, "image": 6}, 2).double()
    assert all(not update.any() for update in layer(streams(PAIR))[0].values())

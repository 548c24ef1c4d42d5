"""LAVISH against a slow computation of its equation, in float64 with gradients."""

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
    streams,
)

from hmmoe.methods import make_method


def lavish(p, x, mask, read, norm):
    seen = [
        latent_attention(p, "attention.", list(rows), other_tokens(p, read, b)) for b, rows in enumerate(x)
    ]
    return gated_bottleneck(p, "bottleneck.", seen, mask, norm)


@pytest.mark.parametrize(
    "options", [{}, {"latents": 5, "groups": 1, "batch_norm": False}], ids=["ave", "avqa"]
)
@pytest.mark.parametrize(("names", "padded"), CASES)
@pytest.mark.parametrize("training", [False, True])
def test_equals_the_equation(names, options, padded, training):
    layer = layer_of("lavish", names, **options).train(training)
    routing = equals_reference(layer, names, lavish, padded)
    assert routing.weights == {}
    assert routing.balance == routing.z == 0


def test_a_missing_stream_leaves_the_latent_tokens_alone():
    equals_reference(layer_of("lavish", PAIR).eval(), ("audio",), lavish)


def test_streams_of_one_width_are_read_as_they_are_as_published():
    assert not list(layer_of("lavish", ("audio", "text")).adapters["audio"].reader.parameters())
    assert list(layer_of("lavish", PAIR).adapters["audio"].reader.parameters())


def test_at_the_start_only_the_gate_learns_and_two_steps_later_everything():
    layer = make_method({"name": "lavish", "rank": 2}).layer({"audio": 4, "image": 6}, 2).double().train()
    states = streams(PAIR)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.5)
    moved = []
    for _ in range(3):
        optimiser.zero_grad()
        sum((x**2 + x).sum() for x in layer(states)[0].values()).backward()
        moved.append(
            {name.rpartition(".")[2] for name, p in layer.named_parameters() if p.grad.abs().sum() > 0}
        )
        optimiser.step()
    assert moved[0] == {"gate"}
    assert all(p.grad.abs().sum() > 0 for p in layer.parameters())


def test_groups_must_divide_the_width():
    with pytest.raises(ValueError, match="groups=2 does not divide a stream's width 5"):
        make_method({"name": "lavish", "rank": 2}).layer({"audio": 5, "image": 6}, 2)

"""VL-Adapter against hooks on the layers that the test names, in float64 with gradients."""

from test_adapter import PLACES, gelu
from towers import batch, built, compare, new_parameters

PAIRS = [(0, 4), (1, 5), (2, 6), (3, 7)]  # of PLACES: image and text, first and second point


def after(p):
    def hook(module, args, h):
        d = h.shape[-1]
        z = gelu(h @ p["down.weight"][:, :d].T + p["down.bias"])
        return h + z @ p["up.weight"][:d].T + p["up.bias"][:d]

    return hook


def test_equals_hooks_with_one_adapter_for_both_streams():
    _, model, plain = built("vl_adapter", rank=3, points=2)
    new, hooks = new_parameters(model, plain), {}
    assert len(new) == 4 * len(PAIRS)
    for image, text in PAIRS:
        p = {k.rpartition("adapter.")[2]: v for k, v in new.items() if k.startswith(PLACES[image])}
        hooks[PLACES[image]] = hooks[PLACES[text]] = after(p)
    compare(model, plain, hooks, batch(), list(new.values()))


def test_the_norms_of_the_adapted_blocks_learn_too():
    _, model, _ = built("vl_adapter", rank=3, points=2)
    tuned = {k for k, p in model.towers.named_parameters() if p.requires_grad and ".adapter." not in k}
    image = {
        f"image.encoder.layers.{i}.layer_norm{j}.{w}"
        for i in (1, 3)
        for j in (1, 2)
        for w in ("weight", "bias")
    }
    text = {
        f"text.encoder.layer.{i}.{part}.LayerNorm.{w}"
        for i in (0, 1)
        for part in ("attention.output", "output")
        for w in ("weight", "bias")
    }
    assert tuned == image | text

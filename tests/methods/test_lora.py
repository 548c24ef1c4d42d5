"""LoRA against hooks on the layers that the test names, in float64 with gradients."""

import pytest
import torch
from test_methods import Encoder
from torch.nn.functional import conv2d
from towers import BERT, CLIP, batch, compare

from hmmoe.container import MultimodalModel
from hmmoe.methods import make_method
from hmmoe.tasks.heads import PooledHead
from small import pair

CLIP_LAYERS = [*(f"self_attn.{x}" for x in ("q_proj", "k_proj", "v_proj", "out_proj")), "mlp.fc1", "mlp.fc2"]
BERT_LAYERS = [
    *(f"attention.self.{x}" for x in ("query", "key", "value")),
    *("attention.output.dense", "intermediate.dense", "output.dense"),
]
PLACES = [CLIP.format(i) + layer for i in (1, 3) for layer in CLIP_LAYERS] + [
    BERT.format(i) + layer for i in (0, 1) for layer in BERT_LAYERS
]


def built(plain, **options):
    """The adapted model, and path of a layer -> its A and B, far from their start."""
    model = make_method({"name": "lora", **options}).build(plain)
    torch.manual_seed(7)
    found = {}
    for name, p in model.named_parameters():
        if ".lora_" in name:
            place, _, which = name.removeprefix("base_model.model.").partition(".lora_")
            found.setdefault(place, {})[which[0]] = p
            torch.nn.init.normal_(p, std=0.3)
    return model, found


def matrices(a, b, scale):
    return lambda layer, args, h: h + scale * (args[0] @ a.T @ b.T)


@pytest.mark.parametrize(("options", "scale"), [({}, 2.0), ({"alpha": 0.5}, 0.5)])
def test_equals_hooks_on_all_linear_layers_of_the_adapted_blocks(options, scale):
    model, found = built(pair().double(), rank=3, points=2, **options)
    assert found.keys() == set(PLACES)
    hooks = {place: matrices(p["A"], p["B"], scale) for place, p in found.items()}
    leaves = [p for ab in found.values() for p in ab.values()]
    compare(model, pair().double(), hooks, batch(), leaves)


def test_a_convolution_has_the_product_of_two():
    def plain():
        torch.manual_seed(0)
        towers = {"image": Encoder(8, 2, conv=True)}
        return MultimodalModel(towers, PooledHead({"image": 8}, 3)).double().eval()

    model, found = built(plain(), rank=2)
    assert found.keys() == {f"towers.image.blocks.{i}.mix" for i in (0, 1)}

    def hook(p):
        return lambda layer, args, h: h + 2 * conv2d(conv2d(args[0], p["A"]), p["B"])

    inputs = {"image": {"x": torch.randn(2, 8, 4, 4).double()}, "labels": torch.tensor([0, 2])}
    leaves = [p for ab in found.values() for p in ab.values()]
    compare(model.eval(), plain(), {place: hook(p) for place, p in found.items()}, inputs, leaves)

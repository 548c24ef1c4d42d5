"""Parallel adapters against hooks on the layers that the test names, in float64 with gradients."""

import pytest
import torch
from torch import nn
from towers import BERT, CLIP, batch, built, compare, new_parameters

from hmmoe.methods.parts.seams import mlp_seam

SEAMS = {  # fc2 -> fc1
    CLIP.format(1) + "mlp.fc2": CLIP.format(1) + "mlp.fc1",
    CLIP.format(3) + "mlp.fc2": CLIP.format(3) + "mlp.fc1",
    BERT.format(0) + "output.dense": BERT.format(0) + "intermediate.dense",
    BERT.format(1) + "output.dense": BERT.format(1) + "intermediate.dense",
}


def beside(p, s):
    """Two hooks: one on fc1 that remembers its input, one on fc2 that adds."""
    kept = []

    def first(module, args, h):
        kept.append(args[0])

    def second(module, args, y):
        z = (kept.pop() @ p["down.weight"].T + p["down.bias"]).clamp(min=0)
        return y + s * (z @ p["up.weight"].T + p["up.bias"])

    return first, second


@pytest.mark.parametrize("scale", [0.1, 2.0])
def test_equals_hooks_beside_the_mlp(scale):
    _, model, plain = built("adapter_parallel", rank=3, points=2, scale=scale)
    new, hooks = new_parameters(model, plain), {}
    assert len(new) == 4 * len(SEAMS)
    for last, first in SEAMS.items():
        p = {k.rpartition("adapter.")[2]: v for k, v in new.items() if k.startswith(last)}
        hooks[first], hooks[last] = beside(p, scale)
    compare(model, plain, hooks, batch(), list(new.values()))


def test_nothing_is_kept_between_forwards():
    _, model, _ = built("adapter_parallel", rank=3, points=2)
    model(**batch())
    assert all(getattr(m, "seen", None) is None for m in model.modules())


class MBConv(nn.Module):
    def __init__(self, channels, out, stride=1):
        super().__init__()
        self.expand = nn.Conv2d(channels, 4 * channels, 1)
        self.depth = nn.Conv2d(4 * channels, 4 * channels, 3, stride, 1, groups=4 * channels)
        self.project = nn.Conv2d(4 * channels, out, 1)


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.out = nn.Linear(8, 16), nn.Linear(16, 8)
        self.gate, self.up, self.down = nn.Linear(8, 24), nn.Linear(8, 24), nn.Linear(24, 8)


@pytest.mark.parametrize(
    ("block", "first", "last"),
    [
        (MBConv(8, 8), "expand", "project"),
        (MBConv(8, 8, stride=2), "project", "project"),
        (MBConv(8, 12), "project", "project"),
        (Gated(), "gate", "down"),
        (nn.TransformerEncoderLayer(8, 2, 16), "linear1", "linear2"),
    ],
    ids=["inverted bottleneck", "strided", "of two widths", "gated", "torch"],
)
def test_the_seam_is_found_by_shapes(block, first, last):
    seam = mlp_seam(block)
    assert (seam.first, seam.last) == (first, last)


def test_a_block_that_ends_in_a_strided_convolution_is_refused():
    with pytest.raises(ValueError, match="no adapter can stand beside 1 of Sequential, which strides"):
        mlp_seam(nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, stride=2)))


def test_torch_blocks_do_not_take_their_fused_path_around_the_adapter():
    from hmmoe.methods.parts.bottleneck import Bottleneck
    from hmmoe.methods.parts.seams import parallel

    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0).eval()
    x = torch.randn(2, 3, 8)
    adapter = Bottleneck(8, 8, 2, torch.relu)
    nn.init.normal_(adapter.up.weight)
    parallel(block, mlp_seam(block), adapter)
    with torch.no_grad():
        still = block(x)
    torch.testing.assert_close(block(x), still)

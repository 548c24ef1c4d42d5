"""UniAdapter against hooks on the layers that the test names, in float64 with gradients."""

import torch
from test_adapter_parallel import SEAMS
from towers import BERT, CLIP, batch, built, compare, new_parameters


def beside(down, up, s):
    kept = []

    def first(module, args, h):
        kept.append(args[0])

    def second(module, args, y):
        x = kept.pop()
        d = x.shape[-1]
        centred = x - x.mean(-1, keepdim=True)
        x = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5)
        x = x * down["norm.weight"][:d] + down["norm.bias"][:d]
        z = (x @ down["down.weight"][:, :d].T + down["down.bias"]).clamp(min=0)
        return y + s * (z @ up["weight"].T + up["bias"])

    return first, second


def test_equals_hooks_beside_the_mlp_with_one_down_projection_per_point():
    _, model, plain = built("uniadapter", rank=3, points=2)
    new, hooks = new_parameters(model, plain), {}
    assert len(new) == 2 * (4 + 2 * 2)  # per point: norm and down of all streams, up of each
    for point, blocks in enumerate([(CLIP.format(1), BERT.format(0)), (CLIP.format(3), BERT.format(1))]):
        lasts = [last for last in SEAMS if last.startswith(blocks)]
        shared = {k.partition("adapter.0.")[2]: v for k, v in new.items() if k.startswith(lasts[0])}
        assert shared["down.weight"].shape == (3, 24), point  # as wide as the wider stream
        for last in lasts:
            up = {k.partition("adapter.1.")[2]: v for k, v in new.items() if k.startswith(last)}
            hooks[SEAMS[last]], hooks[last] = beside(shared, up, 0.1)
    compare(model, plain, hooks, batch(), list(new.values()))


def test_the_streams_of_a_point_share_the_module_itself():
    _, model, _ = built("uniadapter", rank=3, points=2)
    image = model.get_submodule(CLIP.format(1) + "mlp.fc2").adapter
    text = model.get_submodule(BERT.format(0) + "output.dense").adapter
    assert image[0] is text[0]
    assert image[1] is not text[1]

"""What the tests of methods inside blocks share: a CLIP and a BERT tower, and adapters put in by hand.

By hand means hooks on layers that the test names, so nothing of `hmmoe.methods` finds or wraps them.
"""

import torch

from hmmoe.methods import make_method
from small import collate, pair, rows

CLIP = "towers.image.encoder.layers.{}."
BERT = "towers.text.encoder.layer.{}."


def built(name, **options):
    """`(method, adapted model, plain model)`, in float64, what the method added far from its start."""
    method = make_method({"name": name, **options})
    plain, model = pair().double(), method.build(pair().double())
    torch.manual_seed(7)
    with torch.no_grad():
        for p in new_parameters(model, plain).values():
            p.add_(0.3 * torch.randn_like(p))
    return method, model, plain


def batch(count=3):
    inputs = collate(rows(count))
    inputs["image"]["pixel_values"] = inputs["image"]["pixel_values"].double()
    return inputs


def new_parameters(model, plain):
    """What the method added, by name."""
    own = {name for name, _ in plain.named_parameters()}
    return {
        name: p
        for name, p in model.named_parameters()
        if p.requires_grad and name.replace(".base_layer", "") not in own
    }


def compare(model, plain, hooks, inputs, leaves):
    """Loss and gradients of the model equal those of the plain one with `hooks` (path -> forward hook)."""
    ours = model(**inputs).loss
    handles = [plain.get_submodule(path).register_forward_hook(hook) for path, hook in hooks.items()]
    try:
        theirs = plain(**inputs).loss
    finally:
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(ours, theirs)
    found = torch.autograd.grad(ours, leaves)
    wanted = torch.autograd.grad(theirs, leaves)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)
    assert all(g.abs().sum() > 0 for g in found)

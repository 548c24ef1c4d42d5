"""frozen, full, bitfit and layernorm: exactly what they name learns, with the plain model's gradients."""

import pytest
import torch
from torch import nn
from towers import batch, built

from hmmoe.container import MultimodalModel
from hmmoe.methods import count_parts, make_method, share
from hmmoe.tasks.heads import PooledHead

LEARNS = {
    "frozen": lambda name: False,
    "full": lambda name: True,
    "bitfit": lambda name: name.endswith("bias"),
    "layernorm": lambda name: any(word in name for word in ("norm", "LayerNorm", "layrnorm")),
}


@pytest.mark.parametrize("name", LEARNS)
def test_what_learns_and_its_gradients(name):
    _, model, plain = built(name)
    learning = {k: p for k, p in model.named_parameters() if p.requires_grad}
    inputs, theirs = batch(), dict(plain.named_parameters())
    assert learning.keys() == {k for k in theirs if k.startswith("head.") or LEARNS[name](k)}
    plain.load_state_dict(model.state_dict())
    wanted = [theirs[k].requires_grad_(True) for k in learning]
    found = torch.autograd.grad(model(**inputs).loss, learning.values(), allow_unused=True)
    expected = torch.autograd.grad(plain(**inputs).loss, wanted, allow_unused=True)
    unused = {k for k, g in zip(learning, found, strict=True) if g is None}
    assert all("pooler" in k or "post_layernorm" in k or "token_type" in k for k in unused)
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


def test_full_trains_the_whole_share():
    _, model, _ = built("full")
    parts = count_parts(model)
    assert parts["backbone"] == 0
    assert share(parts["adapter"], parts["backbone"]) == 1


@pytest.mark.parametrize("name", ["bitfit", "layernorm"])
def test_towers_without_such_parameters_are_refused(name):
    bare = MultimodalModel({"image": nn.Linear(4, 4, bias=False)}, PooledHead({"image": 4}, 2))
    with pytest.raises(ValueError, match=f"method '{name}' found no .* in the towers"):
        make_method({"name": name}).build(bare)


@pytest.mark.parametrize("name", LEARNS)
def test_they_have_no_size(name):
    with pytest.raises(ValueError, match=r"method\.budget"):
        make_method({"name": name, "budget": 0.1})

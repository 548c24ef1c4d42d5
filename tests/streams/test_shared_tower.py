"""One tower for two streams (as LAVISH hears with a vision tower): equal to two towers of one weight."""

import copy

import pytest
import torch

from hmmoe import HMMoEConfig, MultimodalModel, from_pretrained, get_peft_model
from hmmoe.methods import make_method
from hmmoe.methods.base import count_parts
from small import LinearHead, pair, wake


def shared(towers: int = 1) -> MultimodalModel:
    tower = pair().towers["image"]
    other = tower if towers == 1 else copy.deepcopy(tower)
    torch.manual_seed(1)
    return MultimodalModel({"video": tower, "audio": other}, LinearHead({"video": 16, "audio": 16}))


def batch() -> dict:
    torch.manual_seed(2)
    return {m: {"pixel_values": torch.randn(3, 3, 16, 16)} for m in ("video", "audio")} | {
        "labels": torch.tensor([0, 1, 2])
    }


def adapted(towers: int, **options):
    torch.manual_seed(3)
    config = HMMoEConfig(**{"rank": 3, "modules_to_save": ["head"], **options})
    return wake(get_peft_model(shared(towers), config))


POINTS = [{"video": 0, "audio": 0}, {"video": 1, "audio": 2}, {"video": 2, "audio": 3}]


@pytest.mark.parametrize("points", [None, POINTS])
def test_equal_to_two_towers_of_the_same_weights_gradients_included(points):
    one, two = adapted(1, points=points), adapted(2, points=points)
    found, expected = one(**batch()), two(**batch())
    torch.testing.assert_close(found.logits, expected.logits)
    found.loss.backward()
    expected.loss.backward()
    grads = [sorted(p.grad.norm() for p in m.parameters() if p.grad is not None) for m in (one, two)]
    torch.testing.assert_close(torch.stack(grads[0]), torch.stack(grads[1]))


def test_its_parameters_count_once():
    one, two = (adapted(n).base_model.parameter_counts() for n in (1, 2))
    assert one["adapter"] == two["adapter"]
    assert 2 * one["backbone"] == two["backbone"]


def test_adapters_on_it_survive_saving(tmp_path):
    model = adapted(1, points=POINTS).eval()
    model.save_pretrained(tmp_path)
    again = from_pretrained(shared(), tmp_path).eval()
    torch.testing.assert_close(again(**batch()).logits, model(**batch()).logits, rtol=0, atol=0)


def test_checkpointing_on_it_changes_nothing():
    model = adapted(1).train()
    model(**batch())  # the first training batch sets the standardisation
    expected = model(**batch()).loss
    model.get_base_model().gradient_checkpointing_enable()
    found = model(**batch())
    torch.testing.assert_close(found.loss, expected)
    found.loss.backward()
    model.get_base_model().gradient_checkpointing_disable()
    assert not any("forward" in m.__dict__ for m in model.modules())


@pytest.mark.parametrize("name", ["lavish", "lora", "adapter", "frozen"])
def test_the_other_methods_train_on_it(name):
    method = make_method({"name": name} | ({} if name == "frozen" else {"rank": 2}))
    model = method.build(shared())
    model.train()
    loss = model(**batch()).loss
    loss.backward()
    parts = count_parts(model)
    assert parts["backbone"] == sum(p.numel() for p in pair().towers["image"].parameters())
    for n, p in model.named_parameters():
        assert not p.requires_grad or p.grad is not None, n

"""Every method lives with what is done to models: prefixes kept, blocks recomputed, bf16, streams missing."""

import copy
import pickle

import pytest
import torch

from hmmoe.methods import METHODS, Budgeted, make_method
from hmmoe.streams import PrefixCache
from small import collate, pair, rows

ADDED = [name for name, method in METHODS.items() if issubclass(method, Budgeted)]


def adapted(name, **options):
    """With adapters far from their start; BERT's second block and CLIP's second and fourth are adapted."""
    torch.manual_seed(1)
    model = make_method({"name": name, "rank": 2, "points": 2, **options}).build(pair())
    with torch.no_grad():
        for path, p in model.named_parameters():
            if p.requires_grad and "head" not in path:
                p.add_(0.2 * torch.randn_like(p))
    return model


@pytest.mark.parametrize("name", ADDED)
def test_a_remembered_prefix_changes_nothing(name):
    model, inputs = adapted(name).eval(), collate(rows(4))
    plain = model(**inputs).logits
    with PrefixCache(model):
        first, second = model(**inputs).logits, model(**inputs).logits
    torch.testing.assert_close(first, plain)
    torch.testing.assert_close(second, plain)


@pytest.mark.parametrize("name", ADDED)
def test_recomputed_blocks_have_the_same_gradients(name):
    model, inputs = adapted(name).eval(), collate(rows(4))
    learning = [p for p in model.parameters() if p.requires_grad]
    plain = torch.autograd.grad(model(**inputs).loss, learning)
    container = getattr(getattr(model, "base_model", model), "model", model)
    container.gradient_checkpointing_enable()
    again = torch.autograd.grad(model(**inputs).loss, learning)
    for a, b in zip(plain, again, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", ADDED)
def test_a_step_in_bfloat16(name):
    model, inputs = adapted(name).train(), collate(rows(4))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**inputs).loss
    loss.backward()
    assert loss.isfinite()


@pytest.mark.parametrize("name", ADDED)
def test_a_stream_may_be_missing_for_a_sample(name):
    model, inputs = adapted(name).eval(), collate(rows(4))
    there = torch.tensor([True, False, True, True])
    with torch.no_grad():
        mixed = model(**inputs, present={"text": there}).logits
        whole = model(**inputs).logits
    torch.testing.assert_close(mixed[there], whole[there])
    assert not torch.equal(mixed[~there], whole[~there])


@pytest.mark.parametrize("name", ADDED)
def test_dropout_acts_in_training_only(name):
    plain, dropping = adapted(name), adapted(name, dropout=0.5)
    dropping.load_state_dict(plain.state_dict())
    inputs = collate(rows(4))
    assert torch.equal(plain.train()(**inputs).logits, plain(**inputs).logits)
    assert not torch.equal(dropping.train()(**inputs).logits, dropping(**inputs).logits)
    dropping.load_state_dict(plain.state_dict())  # batch norms have moved on
    assert torch.equal(plain.eval()(**inputs).logits, dropping.eval()(**inputs).logits)


@pytest.mark.parametrize("name", ADDED)
def test_copies_and_pickles_answer_alike(name):
    model, inputs = adapted(name).eval(), collate(rows(2))
    wanted = model(**inputs).logits
    assert torch.equal(copy.deepcopy(model)(**inputs).logits, wanted)
    assert torch.equal(pickle.loads(pickle.dumps(model))(**inputs).logits, wanted)

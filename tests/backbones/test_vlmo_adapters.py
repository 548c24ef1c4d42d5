"""HMMoE on VLMo: the words and the image are two spans of one sequence, in both systems of the paper."""

import pytest
import torch

import hmmoe
from hmmoe.backbones.vlmo import VlmoConfig, VlmoForNlvr2, VlmoForQuestionAnswering
from hmmoe.config import HMMoEConfig

SPANS = {"text": [0, "input_ids"], "image": ["input_ids", None]}


def build(system):
    torch.manual_seed(1)
    config = VlmoConfig(
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=3,
        fusion_layer=2,
        vocab_size=50,
        image_size=48,
        max_text_length=8,
        num_answers=7,
        num_token_types=3 if system is VlmoForNlvr2 else 2,
    )
    return system(config).eval()


def adapted(system):
    head = "nlvr2_classifier" if system is VlmoForNlvr2 else "vqa_classifier"
    config = HMMoEConfig(
        streams=dict.fromkeys(SPANS, "vlmo.blocks.*"), spans=SPANS, rank=4, modules_to_save=[head]
    )
    return hmmoe.get_peft_model(build(system), config).eval()


def shake(model):
    for p in model.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.1)


def batch(system):
    torch.manual_seed(2)
    images = (2, 2, 3, 48, 48) if system is VlmoForNlvr2 else (2, 3, 48, 48)
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    return {
        "input_ids": torch.randint(1, 50, (2, 6)),
        "attention_mask": mask,
        "pixel_values": torch.randn(images),
    }


systems = pytest.mark.parametrize("system", [VlmoForQuestionAnswering, VlmoForNlvr2])


@systems
def test_adapted_starts_as_the_frozen_model_and_returns_to_it(system):
    # Frozen in earnest: for a bias that needs a gradient torch takes another kernel, which rounds otherwise.
    frozen = build(system).requires_grad_(False)(**batch(system)).logits
    model = adapted(system)
    assert torch.equal(model(**batch(system)).logits, frozen)
    shake(model)
    assert not torch.equal(model(**batch(system)).logits, frozen)
    with model.disable_adapter():
        assert torch.equal(model(**batch(system)).logits, frozen)


@systems
def test_a_gradient_reaches_every_adapter(system):
    model = adapted(system)
    shake(model)
    model(**batch(system)).logits.square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert not any(p.grad is not None for p in model.parameters() if not p.requires_grad)


@systems
def test_padded_words_change_no_answer(system):
    model = adapted(system)
    shake(model)
    inputs = batch(system)
    before = model(**inputs).logits
    inputs["input_ids"][1, 4:] = 1
    assert torch.equal(model(**inputs).logits, before)


@systems
def test_a_saved_adapter_comes_back_bit_equal(system, tmp_path):
    model = adapted(system)
    shake(model)
    model.save_pretrained(tmp_path)
    again = hmmoe.from_pretrained(build(system), tmp_path).eval()
    assert torch.equal(again(**batch(system)).logits, model(**batch(system)).logits)


@pytest.mark.parametrize("size", ["base", "base_plus", "large"])
def test_full_size_adapters_train_the_share_of_the_paper(size):
    with torch.device("meta"):
        model = VlmoForQuestionAnswering(VlmoConfig.preset(size))
        config = HMMoEConfig(streams=dict.fromkeys(SPANS, "vlmo.blocks.*"), spans=SPANS, budget=0.06)
        model = hmmoe.get_peft_model(model, config)
    counts = model.base_model.parameter_counts()
    added = counts["adapter"] + counts["router"]
    assert 0.05 <= added / (counts["backbone"] + added) <= 0.08

import copy
import pickle
from contextlib import nullcontext

import pytest
import torch
import transformers as tf
from peft import LoraConfig
from peft import get_peft_model as peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint

import hmmoe
from hmmoe import HMMoEConfig, MultimodalModel
from hmmoe.streams import PrefixCache
from small import LinearHead, adapted, collate, pair, rows, wake


def three(**options) -> MultimodalModel:
    """image, text and speech, all of width 16."""
    torch.manual_seed(0)

    def tower() -> nn.Module:
        return tf.ViTModel(
            tf.ViTConfig(
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=16,
                patch_size=8,
            )
        )

    widths = {"image": 16, "text": 16, "speech": 16}
    return MultimodalModel({m: tower() for m in widths}, options.pop("head", LinearHead(widths)), **options)


class StatesHead(nn.Module):
    """Hands through what it is given."""

    def forward(self, states, masks):
        return {m: (states[m], masks[m]) for m in states}


def pictures(*shape: int) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(*shape, 3, 16, 16)}


def test_the_head_gets_states_and_masks_of_every_stream_that_is_there():
    model = MultimodalModel(dict(pair().towers.items()), StatesHead())
    batch = collate(rows(3))
    found = model(image=batch["image"], text=batch["text"]).logits
    assert found["image"][0].shape == (3, 5, 16)
    assert found["image"][1] is None
    assert torch.equal(found["text"][1], batch["text"]["attention_mask"].bool())
    assert list(model(text=batch["text"], image=None).logits) == ["text"]


def test_folded_streams_come_back_with_their_frames():
    model = three(head=StatesHead(), folded=["image"])
    found = model(image=pictures(2, 3), text=pictures(2)).logits
    assert found["image"][0].shape == (2, 3, 5, 16)
    frame = model(image=pictures(1, 1)).logits["image"][0]
    assert frame.shape == (1, 1, 5, 16)


def test_grids_become_tokens():
    torch.manual_seed(0)
    tower = tf.ConvNextModel(tf.ConvNextConfig(depths=[1, 1], hidden_sizes=[8, 16], num_stages=2))
    model = MultimodalModel({"image": tower}, StatesHead())
    batch = {"pixel_values": torch.randn(2, 3, 32, 32)}
    states = model(image=batch).logits["image"][0]
    grid = tower(**batch).last_hidden_state
    torch.testing.assert_close(states, grid.flatten(2).mT)


def test_wav2vec2_has_its_mask_at_its_own_rate():
    config = tf.Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        conv_dim=(8, 8),
        conv_stride=(4, 4),
        conv_kernel=(8, 4),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    model = MultimodalModel({"audio": tf.Wav2Vec2Model(config)}, StatesHead())
    mask = (torch.arange(160) < torch.tensor([[160], [90]])).long()
    states, real = model(audio={"input_values": torch.randn(2, 160), "attention_mask": mask}).logits["audio"]
    assert real.shape == states.shape[:2]
    assert real.sum(1).tolist() == [states.shape[1], 5]


def test_a_sample_without_a_stream_is_as_if_that_sample_were_alone():
    model = wake(adapted()).eval()
    batch = collate(rows(2))
    present = {"text": torch.tensor([True, False])}
    states = model(**batch, present=present, output_states=True).states
    first = {m: {k: v[:1] for k, v in batch[m].items()} for m in ("image", "text")}
    base = model.get_base_model()
    torch.testing.assert_close(states["image"][:1], model(**first, output_states=True).states["image"])
    base.head = StatesHead()
    alone = model(image={k: v[1:] for k, v in batch["image"].items()}, output_states=True).states
    torch.testing.assert_close(states["image"][1:], alone["image"])
    masks = model(image=batch["image"], text=batch["text"], present=present).logits["text"][1]
    assert masks.any(1).tolist() == [True, False]


@pytest.mark.parametrize("there", [[True, False, True, False], [False] * 4])
@pytest.mark.parametrize("memory", [False, True])
def test_a_tower_runs_only_the_samples_that_have_its_stream(there, memory):
    torch.manual_seed(0)
    model = hmmoe.get_peft_model(
        three(head=StatesHead(), folded=["text"], levels={"text": [0]}), HMMoEConfig(rank=4)
    )
    wake(model).eval()
    batch = {"image": pictures(4), "text": pictures(4, 3), "speech": pictures(4)}
    present = {"text": torch.tensor(there)}
    ran = []
    model.get_base_model().towers["text"].register_forward_pre_hook(
        lambda tower, args, kwargs: ran.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    with PrefixCache(model) if memory else nullcontext() as cache:
        for _ in range(2):
            found = model(**batch, present=present, index=torch.arange(4) + 7).logits
        if cache is not None:
            assert cache.knows(torch.arange(4) + 7, present)
            assert not cache.knows(torch.arange(4) + 7)
    assert ran == [3 * max(sum(there), 1)] * 2
    assert set(found) == {"image", "text", "text/0", "speech"}
    trained = [p for p in model.parameters() if p.requires_grad]
    total = sum((states**2).sum() for states, _ in found.values())
    assert all(g is not None for g in torch.autograd.grad(total, trained, allow_unused=True))
    for i, here in enumerate(there):
        one = {m: {k: v[i : i + 1] for k, v in inputs.items()} for m, inputs in batch.items()}
        alone = model(**(one if here else {m: one[m] for m in ("image", "speech")})).logits
        for m, (states, _) in alone.items():
            torch.testing.assert_close(found[m][0][i : i + 1], states)
        for name in ("text", "text/0"):
            assert found[name][0].shape == (4, 3, 5, 16)
            assert found[name][1][i].tolist() == [[here] * 5] * 3


def test_groups_never_see_each_other():
    config = HMMoEConfig(rank=4)
    model = wake(hmmoe.get_peft_model(three(groups=[["image"], ["text", "speech"]]), config)).eval()
    batch = {m: pictures(2) for m in ("image", "text", "speech")}
    before = model(**batch, output_states=True).states
    after = model(**{**batch, "image": pictures(2)}, output_states=True).states
    torch.testing.assert_close(before["text"], after["text"], rtol=0, atol=0)
    assert not torch.equal(before["image"], after["image"])
    after = model(**{**batch, "text": pictures(2)}, output_states=True).states
    torch.testing.assert_close(before["image"], after["image"], rtol=0, atol=0)
    assert not torch.equal(before["speech"], after["speech"])
    assert {frozenset(point) for point in model.routing().values()} == {
        frozenset({"image"}),
        frozenset({"text", "speech"}),
    }


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"imagee": pictures(2)}, "unknown stream 'imagee', did you mean 'image'"),
        ({}, "at least one stream of image, text, speech"),
        ({"image": pictures(2), "text": pictures(3)}, r"same batch size, got \{'image': 2, 'text': 3\}"),
        ({"image": {"size": 3}}, "inputs of stream 'image' hold no tensor"),
        ({"image": {**pictures(2), "other": torch.zeros(3)}}, r"must all start with \(B,\)"),
        ({"image": pictures(2), "present": {"image": torch.ones(3)}}, r"present\['image'\] must be \(2,\)"),
        ({"image": pictures(2), "present": {"txt": torch.ones(2)}}, "did you mean 'text'"),
    ],
)
def test_inputs_that_do_not_fit_are_named(call, says):
    with pytest.raises(ValueError, match=says):
        three()(**call)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"folded": ["vidoe"]}, "stream in folded 'vidoe'"),
        ({"groups": [["image"], ["txt"]]}, "did you mean 'text'"),
        ({"groups": [["image"], ["text"]]}, "every stream once"),
        ({"groups": [["image", "text"], ["text", "speech"]]}, "every stream once"),
    ],
)
def test_streams_that_do_not_fit_are_named(options, says):
    with pytest.raises(ValueError, match=says):
        three(**options)


def noisy() -> MultimodalModel:
    return MultimodalModel(dict(pair(dropout=0.5).towers.items()), LinearHead({"image": 16, "text": 24}))


def test_towers_stay_frozen_and_in_eval_under_train_but_adapters_do_not():
    model = hmmoe.get_peft_model(noisy(), HMMoEConfig(rank=2, modules_to_save=["head"])).train()
    modes = {name: m.training for name, m in model.named_modules()}
    assert not any(on for name, on in modes.items() if name.endswith("dropout") or name.endswith("self_attn"))
    assert all(on for name, on in modes.items() if "hmmoe_layers" in name)
    assert modes["base_model.model.head.modules_to_save.default"]
    batch = collate(rows(2))
    torch.testing.assert_close(model(**batch).logits, model(**batch).logits, rtol=0, atol=0)
    assert not any(p.requires_grad for n, p in model.named_parameters() if "towers" in n and "hmmoe" not in n)
    model.eval()
    assert not any(m.training for m in model.modules())


def test_lora_trains_in_the_same_container():
    config = LoraConfig(
        target_modules=r"towers\..*(q_proj|query)", lora_dropout=0.5, modules_to_save=["head"]
    )
    model = peft_model(noisy(), config).train()
    modes = {name: m.training for name, m in model.named_modules()}
    assert all(on for name, on in modes.items() if "lora_dropout" in name)
    assert not any(on for name, on in modes.items() if name.endswith("base_layer"))
    model(**collate(rows(2))).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_runs_frozen_blocks_twice_in_eval_mode_and_changes_nothing(reentrant):
    model = wake(hmmoe.get_peft_model(noisy(), HMMoEConfig(rank=2, modules_to_save=["head"]))).train()
    batch = collate(rows(2))
    trained = [p for p in model.parameters() if p.requires_grad]
    expected = torch.autograd.grad(model(**batch).loss, trained)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    ran = []
    last = model.get_base_model().towers["image"].encoder.layers[3]
    last.base_layer.mlp.register_forward_pre_hook(lambda module, *_: ran.append(module.training))
    loss = model(**batch).loss
    loss.backward()
    torch.testing.assert_close(tuple(p.grad for p in trained), expected)
    assert ran == [False, False]
    model.gradient_checkpointing_disable()
    ran.clear()
    model(**batch).loss.backward()
    assert ran == [False]


def test_a_checkpoint_around_a_fusion_point_is_an_error_and_the_model_stays_usable():
    model = wake(adapted()).train()
    batch = collate(rows(2))
    block = model.get_base_model().towers["image"].encoder.layers[1]
    inner = type(block).forward.__get__(block)
    block.forward = lambda *a, **k: checkpoint(inner, *a, use_reentrant=False, **k)
    with pytest.raises(RuntimeError, match="'image' came to fusion point 0 in another"):
        model(**batch)
    del block.forward
    assert model(**batch).loss.isfinite()


def test_a_checkpoint_around_the_whole_model_is_fine():
    model = wake(adapted()).train()
    batch = collate(rows(2))
    trained = [p for p in model.parameters() if p.requires_grad]
    expected = torch.autograd.grad(model(**batch).loss, trained)
    loss = checkpoint(lambda: model(**batch).loss, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(loss, trained), expected)


def test_copies_and_pickles_work():
    model = pair().eval()
    batch = collate(rows(2))
    expected = model(**batch).logits
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(copied(**batch).logits, expected, rtol=0, atol=0)


def clip() -> tf.CLIPModel:
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return tf.CLIPModel(
        tf.CLIPConfig(
            vision_config={**small, "image_size": 16, "patch_size": 8},
            text_config={**small, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2},
            projection_dim=8,
        )
    ).eval()


TOWERS = {"image": "vision_model", "text": "text_model"}


def test_a_joint_model_meets_in_lockstep_and_keeps_its_own_interface(tmp_path):
    batch = collate(rows(3))
    call = {**batch["image"], **batch["text"], "return_loss": True}
    expected = clip()(**call)
    model = MultimodalModel.from_joint(clip(), TOWERS)
    torch.testing.assert_close(model(**call).logits_per_image, expected.logits_per_image, rtol=0, atol=0)
    model = hmmoe.get_peft_model(model, HMMoEConfig(rank=2))
    torch.testing.assert_close(model(**call).logits_per_image, expected.logits_per_image, rtol=0, atol=0)
    learned = wake(model, 1.0)(**call).logits_per_image
    assert not torch.allclose(learned, expected.logits_per_image)
    model.train()
    model(**call).loss.backward()
    assert any(p.grad.any() for p in model.parameters() if p.requires_grad)
    model.save_pretrained(tmp_path)
    again = hmmoe.from_pretrained(MultimodalModel.from_joint(clip(), TOWERS), tmp_path).eval()
    torch.testing.assert_close(again(**call).logits_per_image, learned, rtol=0, atol=0)
    alone = model.get_base_model().joint.get_image_features(**batch["image"])  # the text is missing
    assert alone.pooler_output.shape == (3, 8)


def test_a_joint_model_with_a_wrong_path_is_an_error():
    with pytest.raises(
        ValueError, match="tower 'image' = 'visual' is no module of CLIPModel, which holds text_model"
    ):
        MultimodalModel.from_joint(clip(), {"image": "visual"})

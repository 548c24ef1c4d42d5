"""What a head sees of a tower's way: the right blocks, with the updates of adapters, in the tower's order."""

import pytest
import torch
import transformers as tf
from torch import nn

from hmmoe import HMMoEConfig, MultimodalModel, get_peft_model
from hmmoe.streams import PrefixCache
from hmmoe.streams.levels import level_blocks, level_widths
from small import collate, pair, rows, wake


class StatesHead(nn.Module):
    def forward(self, states, masks):
        return {m: (states[m], masks[m]) for m in states}


def swin() -> nn.Module:
    torch.manual_seed(0)
    return tf.Swinv2Model(
        tf.Swinv2Config(
            image_size=16, patch_size=2, embed_dim=8, depths=[1, 2, 1], num_heads=[1, 2, 4], window_size=4
        )
    ).eval()


def test_stages_end_where_the_width_or_the_parent_changes():
    assert level_blocks(swin(), 4) == [0, 2, 3]
    assert level_blocks(swin(), 2) == [2, 3]
    assert level_widths(swin(), [0, 2, 3]) == [8, 16, 32]
    hiera = tf.Sam2HieraDetModel(
        tf.Sam2HieraDetConfig(
            hidden_size=8,
            embed_dim_per_stage=[8, 16, 32, 64],
            blocks_per_stage=[1, 1, 2, 1],
            num_attention_heads=1,
            num_attention_heads_per_stage=[1, 1, 2, 2],
            global_attention_blocks=[3],
            image_size=[64, 64],
        )
    )
    assert level_blocks(hiera, 4) == [0, 1, 3, 4]  # a flat list of blocks whose width grows


def test_a_tower_of_one_scale_is_read_at_even_depths():
    assert level_blocks(pair().towers["image"], 2) == [1, 3]
    assert level_blocks(pair().towers["text"], 4) == [0, 1]  # no more than it has


def test_levels_are_the_towers_own_states_before_downsampling():
    tower = swin()
    model = MultimodalModel({"image": tower}, StatesHead(), levels={"image": [0, 2, 3]}).eval()
    pixels = torch.randn(2, 3, 16, 16)
    found = model(image={"pixel_values": pixels}).logits
    told = tower.encoder(
        *tower.embeddings(pixels), output_hidden_states=True, output_hidden_states_before_downsampling=True
    )
    for k, expected in enumerate(told.hidden_states[1:]):
        torch.testing.assert_close(found[f"image/{k}"][0], expected)
    assert list(found) == ["image", "image/0", "image/1", "image/2"]


def test_levels_hold_the_updates_of_adapters_and_pass_gradients():
    base = pair()
    model = MultimodalModel(dict(base.towers.items()), StatesHead(), levels={"image": [1, 3]})
    batch = collate(rows(3))
    inputs = {m: batch[m] for m in ("image", "text")}
    before = model(**inputs).logits["image/0"][0]
    adapted = wake(get_peft_model(model, HMMoEConfig(rank=4, points=[{"image": 1, "text": 0}])))
    after = adapted(**inputs).logits["image/0"][0]
    assert not torch.allclose(before, after)
    after.sum().backward()
    grads = [p.grad for n, p in adapted.named_parameters() if ".up." in n and n.endswith("image")]
    assert grads[0].abs().sum() > 0
    with adapted.disable_adapter():
        torch.testing.assert_close(adapted(**inputs).logits["image/0"][0], before, rtol=0, atol=0)


@pytest.mark.parametrize("prepare", ["gradient_checkpointing_enable", "compile_blocks"])
def test_levels_stay_under_checkpointing_and_compile(prepare):
    model = MultimodalModel(dict(pair().towers.items()), StatesHead(), levels={"image": [0, 2]})
    batches = [collate(rows(3)[i:]) for i in (0, 1)]
    expected = [model(image=b["image"]).logits["image/1"][0] for b in batches]
    options = {"backend": "eager"} if prepare == "compile_blocks" else {}
    getattr(model, prepare)(**options)
    for batch, told in zip(batches, expected, strict=True):
        torch.testing.assert_close(model(image=batch["image"]).logits["image/1"][0], told)


def test_folded_streams_and_missing_samples_are_marked_in_levels_too():
    towers = {"image": pair().towers["image"]}
    model = MultimodalModel(towers, StatesHead(), folded=["image"], levels={"image": [3]})
    found = model(
        image={"pixel_values": torch.randn(2, 3, 3, 16, 16)}, present={"image": torch.tensor([True, False])}
    ).logits
    state, mask = found["image/0"]
    assert state.shape == (2, 3, 5, 16)
    assert mask[0].all()
    assert not mask[1].any()


def test_a_missing_stream_has_no_levels():
    model = MultimodalModel(dict(pair().towers.items()), StatesHead(), levels={"image": [1]})
    assert list(model(text=collate(rows(2))["text"]).logits) == ["text"]


@pytest.mark.parametrize("blocks", [[], [4], [1, 1], [2, 1], [-1]])
def test_blocks_that_are_not_there_are_named(blocks):
    with pytest.raises(ValueError, match=r"levels\['image'\] must be rising block numbers from 0 to 3"):
        MultimodalModel(dict(pair().towers.items()), StatesHead(), levels={"image": blocks})


def test_an_unknown_stream_is_named():
    with pytest.raises(ValueError, match="unknown stream in levels 'imgae', did you mean 'image'"):
        MultimodalModel(dict(pair().towers.items()), StatesHead(), levels={"imgae": [1]})


@pytest.mark.parametrize("points", [None, [{"image": 1, "text": 0}], [{"image": 3, "text": 1}]])
def test_levels_inside_a_remembered_prefix_are_remembered_too(points):
    model = MultimodalModel(dict(pair().towers.items()), StatesHead(), levels={"image": [0, 1, 3]})
    if points is not None:
        model = wake(get_peft_model(model, HMMoEConfig(rank=4, points=points)))
    batch = {k: v for k, v in collate(rows(4)).items() if k != "labels"}
    expected = model(**batch).logits
    base = model if points is None else model.get_base_model()
    first = base.towers["image"].encoder.layers[0]
    ran = []
    with PrefixCache(model):
        model(**batch)
        getattr(first, "base_layer", first).self_attn.register_forward_hook(lambda *_: ran.append(1))
        found = model(**batch).logits
        assert not ran
        for name in expected:
            torch.testing.assert_close(found[name][0], expected[name][0], rtol=0, atol=0)


def test_a_shared_tower_is_remembered_by_stream():
    tower = pair().towers["image"]
    model = MultimodalModel({"video": tower, "audio": tower}, StatesHead(), levels={"video": [1]})
    torch.manual_seed(2)
    batch = {m: {"pixel_values": torch.randn(3, 3, 16, 16)} for m in ("video", "audio")}
    expected = model(**batch).logits
    with PrefixCache(model):
        for _ in range(2):
            found = model(index=torch.arange(3), **batch).logits
            for name in expected:
                torch.testing.assert_close(found[name][0], expected[name][0], rtol=0, atol=0)

"""Official VALOR checkpoints: every key accounted for, wrong ones refused, safetensors read back."""

import copy
import json
import logging

import pytest
import torch
from valor_reference import CLIP, Reference, official_shapes, official_state, small_config

from hmmoe.backbones.valor import ValorConfig, ValorModel, VideoSwinConfig
from hmmoe.backbones.valor.convert import read_hps, resize_places


@pytest.fixture(params=["clip", "swin"])
def config(request) -> ValorConfig:
    return small_config(request.param)


def folder(path, state, hps=None, step=100):
    (path / "ckpt").mkdir(parents=True, exist_ok=True)
    (path / "log").mkdir(exist_ok=True)
    torch.save(
        {f"module.{key}": value for key, value in state.items()}, path / "ckpt" / f"model_step_{step}.pt"
    )
    if hps is not None:
        (path / "log" / "hps.json").write_text(json.dumps(hps))
    return path


def test_every_key_is_used_a_copy_or_reported(config):
    state = official_state(config)
    model, report = ValorModel.from_official(state, config, output_loading_info=True)
    assert not model.training
    assert sorted(report.used + report.copies + report.unused) == sorted(state)
    assert report.missing == []
    assert "cls.decoder.weight" in report.copies
    assert all(key.startswith("txt_encoder.") for key in report.copies if key != "cls.decoder.weight")
    if config.clip_frames:
        spare = ["clip_model.visual.proj", "clip_model.transformer.resblocks.0.ln_1.weight", "contra_temp"]
        assert sorted(report.unused) == sorted(spare)
    else:
        assert all(key.endswith("relative_position_index") for key in report.unused)


def test_no_weight_is_lost_or_doubled(config):
    """The model holds exactly the numbers of the used keys."""
    state = official_state(config)
    model, report = ValorModel.from_official(state, config, output_loading_info=True)
    used = torch.cat([state[key].flatten() for key in report.used]).sort().values
    held = torch.cat([p.detach().flatten() for p in model.parameters()]).sort().values
    assert torch.equal(used, held)


def test_save_and_load_is_bit_equal(config, tmp_path):
    model = ValorModel.from_official(official_state(config), config)
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    again = ValorModel.from_pretrained(tmp_path)
    assert again.cls.decoder.weight is again.text.embeddings.word_embeddings.weight
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    # read weights lie unaligned in the file's memory, where a CPU may add in another order: copy them out
    again = copy.deepcopy(again)
    inputs = {"pixel_values": torch.randn(1, 2, 3, 32, 32), "audio_values": torch.randn(1, 1, 32, 48)}
    ids = torch.tensor([[1, 5, 6]])
    a, b = (m(**inputs, input_ids=ids, decoder_input_ids=ids) for m in (model, again))
    assert torch.equal(a.similarity["tva"], b.similarity["tva"])
    assert torch.equal(a.logits["tva"], b.logits["tva"])


# as VALOR-L was trained: each data set has counts of its own, and at the top stand the largest
HYPERPARAMETERS = {
    "use_task_prompt": True,
    "data_cfg": {"train": [{"video_sample_num": 2, "audio_sample_num": 1}, {"video_sample_num": 1}]},
    "video_sample_num": 2,
    "audio_sample_num": 1,
}


def test_a_folder_with_hps(tmp_path):
    config = small_config("clip")
    state = official_state(config)
    folder(tmp_path, official_state(config, seed=5), step=99)
    folder(tmp_path, state, HYPERPARAMETERS, step=100)
    torch.save({"state": {}}, tmp_path / "ckpt" / "optimizer_step_101.pt")
    model, report = ValorModel.from_official(tmp_path, config, output_loading_info=True)
    assert torch.equal(model.cls.dense.weight, state["cls.dense.weight"])
    assert report.filled == ["video_memory.frame_embedding", "audio_memory.frame_embedding"]
    for medium, trained in (("video", 2), ("audio", 1)):
        got, given = getattr(model, f"{medium}_memory").frame_embedding, state[f"{medium}_frame_embedding"]
        assert torch.equal(got[:, :trained], given[:, :trained])
        assert (got[:, trained:] == given[:, trained - 1 : trained]).all()
    same = ValorModel.from_official(tmp_path / "ckpt" / "model_step_100.pt", config)
    assert torch.equal(same.video_memory.frame_embedding, model.video_memory.frame_embedding)


def test_a_fine_tuned_checkpoint_keeps_its_frame_table(tmp_path):
    config = small_config("clip")
    state = official_state(config)
    ckpt = folder(tmp_path, state, HYPERPARAMETERS) / "ckpt"
    (ckpt / "model_step_100.pt").rename(ckpt / "best_ret.pt")
    model, report = ValorModel.from_official(ckpt / "best_ret.pt", config, output_loading_info=True)
    assert report.filled == []
    assert torch.equal(model.video_memory.frame_embedding, state["video_frame_embedding"])


@pytest.mark.parametrize(
    ("hps", "found"),
    [
        (HYPERPARAMETERS, {"use_task_prompt": True, "video_sample_num": 2, "audio_sample_num": 1}),
        ({"data_cfg": HYPERPARAMETERS["data_cfg"]}, {"audio_sample_num": 1}),  # the frames are not agreed on
        ({"seed": 50}, {}),
    ],
)
def test_hps_are_those_of_the_run_or_those_that_all_data_sets_agree_on(hps, found, tmp_path):
    (tmp_path / "hps.json").write_text(json.dumps(hps))
    assert read_hps(tmp_path / "hps.json") == found


def test_given_sample_counts_win_over_hps(tmp_path):
    config = small_config("clip")
    state = official_state(config)
    folder(tmp_path, state, {"video_sample_num": 2})
    model = ValorModel.from_official(tmp_path, config, trained_frames=6)
    assert torch.equal(model.video_memory.frame_embedding, state["video_frame_embedding"])
    with pytest.raises(ValueError, match="0 trained rows"):
        ValorModel.from_official(state, config, trained_frames=0)


@pytest.mark.parametrize("prompt", [True, False])
def test_sizes_are_read_from_the_checkpoint(prompt, tmp_path):
    """With heads 64 wide, as in every published size."""
    wide = {"hidden_size": 64, "num_attention_heads": 1, "intermediate_size": 32, "num_hidden_layers": 1}
    text = {**wide, "vocab_size": 30, "max_position_embeddings": 20}
    for vision in (
        {**CLIP, **wide},
        VideoSwinConfig(embed_dim=8, depths=[1, 2], num_heads=[1, 2], window=[8, 7, 7]),
    ):
        config = ValorConfig(
            vision_config=vision, audio_config=wide, text_config=text, contra_dim=8, max_frames=5, max_clips=3
        )
        folder(tmp_path, official_state(config), {"use_task_prompt": prompt})
        model = ValorModel.from_official(tmp_path)
        config.use_task_prompt = prompt
        assert model.config.to_dict() == config.to_dict()


def test_other_image_size_resizes_the_places_bilinearly():
    config = small_config("clip")
    big = small_config("clip")
    big.vision_config.image_size = 48  # 6 x 6 places into 4 x 4
    state = official_state(big)
    model = ValorModel.from_official(state, config)
    table = state["clip_model.visual.positional_embedding"]
    got = model.video.clip.embeddings.position_embedding.weight
    assert torch.equal(got[0], table[0])
    old = table[1:].view(6, 6, -1)
    for r in range(4):
        for c in range(4):
            y, x = (r + 0.5) * 1.5 - 0.5, (c + 0.5) * 1.5 - 0.5
            top, left = int(y), int(x)
            expected = sum(
                (1 - abs(y - i)) * (1 - abs(x - j)) * old[i, j]
                for i in (top, top + 1)
                for j in (left, left + 1)
            )
            torch.testing.assert_close(got[1 + 4 * r + c], expected)
    assert resize_places(table, len(table)) is table


def test_missing_heads_start_at_random_with_a_warning(caplog):
    config = small_config("clip")
    state = {key: value for key, value in official_state(config).items() if "fine_weight" not in key}
    with caplog.at_level(logging.INFO, "hmmoe"):
        model, report = ValorModel.from_official(state, config, output_loading_info=True)
    assert len(report.missing) == 12
    assert all("fine_weight" in name for name in report.missing)
    assert "text_fine_weight.0.weight" in caplog.text
    assert "clip_model.visual.proj" in caplog.text  # unused, told as well
    assert all(p.isfinite().all() for p in model.parameters())


def test_half_precision_and_unknown_keys():
    config = small_config("clip")
    state = {key: value.half() for key, value in official_state(config).items()} | {
        "optimizer_step": torch.ones(1)
    }
    model, report = ValorModel.from_official(state, config, output_loading_info=True)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert "optimizer_step" in report.unused


def test_without_a_prompt_embedding_prompts_count_as_plain_text():
    config = small_config("clip", use_task_prompt=False)
    state = official_state(config)
    del state["multimodal_encoder.embeddings.prompt_embedding.weight"]
    del state["txt_encoder.embeddings.prompt_embedding.weight"]
    model, report = ValorModel.from_official(state, config, output_loading_info=True)
    assert report.missing == ["text.embeddings.token_type_embeddings.weight[2]"]
    types = model.text.embeddings.token_type_embeddings.weight
    assert torch.equal(types[2], types[0])
    model.double()
    expected = Reference(official_state(config), config).text([1, 5, 6])
    torch.testing.assert_close(
        model.run_text(torch.tensor([[1, 5, 6]]), causal=False)[0], expected, atol=1e-6, rtol=0
    )


# ---- refused, with the first key that differs


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"contra_dim": 10}, "'contra_head_t.linear.weight' of shape (12, 24)"),
        ({"max_frames": 5}, "'video_frame_embedding' of shape (1, 6, 24)"),
    ],
)
def test_another_size_names_the_first_key(change, first):
    state = official_state(small_config("clip"))
    with pytest.raises(ValueError, match="first key that differs") as error:
        ValorModel.from_official(state, small_config("clip", **change))
    assert first in str(error.value)


@pytest.mark.parametrize(
    ("frames", "part", "name", "value", "first"),
    [
        ("clip", "vision_config", "num_hidden_layers", 1, "'clip_model.visual.transformer.resblocks.1.ln_1."),
        ("clip", "vision_config", "num_hidden_layers", 3, "'video.clip.encoder.layers.2."),
        ("clip", "vision_config", "hidden_size", 64, "'clip_model.visual.class_embedding'"),
        ("clip", "text_config", "num_hidden_layers", 1, "'multimodal_encoder.encoder.layer.1.attention."),
        ("clip", "audio_config", "num_hidden_layers", 3, "'audio.layers.2."),
        ("swin", "vision_config", "depths", [2, 2], "'video_encoder.layers.1.blocks.2.norm1.weight'"),
        ("swin", "vision_config", "window", [2, 3, 3], "'video_encoder.layers.0.blocks.0.attn.relative"),
    ],
)
def test_another_depth_or_width_names_the_first_key(frames, part, name, value, first):
    config = small_config(frames)
    state = official_state(config)
    setattr(getattr(config, part), name, value)
    ordered = {key: state[key] for key in [*official_shapes(small_config(frames)), *state]}
    with pytest.raises(ValueError, match="another size or family") as error:
        ValorModel.from_official(ordered, config)
    assert first in str(error.value)


def test_another_family_names_the_first_key():
    clip, swin = small_config("clip"), small_config("swin")
    with pytest.raises(ValueError, match=r"with clip frames.*'video_encoder\.patch_embed\.proj\.weight'"):
        ValorModel.from_official(official_state(swin), clip)
    with pytest.raises(ValueError, match=r"with swin frames.*'clip_model\.visual\.class_embedding'"):
        ValorModel.from_official(official_state(clip), swin)
    vlmo = {"transformer.cls_token": torch.zeros(1, 1, 8)}
    with pytest.raises(ValueError, match=r"not a VALOR checkpoint.*'transformer\.cls_token'"):
        ValorModel.from_official(vlmo, clip)
    with pytest.raises(ValueError, match="not a VALOR checkpoint"):
        ValorModel.from_official(vlmo)


@pytest.mark.parametrize("key", ["cls.decoder.weight", "txt_encoder.encoder.layer.0.output.dense.bias"])
def test_copies_that_differ_are_refused(key):
    state = official_state(small_config("clip"))
    state[key] = state[key] + 1
    with pytest.raises(ValueError, match=rf"'{key}' and 'multimodal_encoder.* differ"):
        ValorModel.from_official(state, small_config("clip"))


def test_a_decoder_with_a_cross_attention_for_each_medium_is_refused():
    state = official_state(small_config("clip"))
    one = "multimodal_encoder.encoder.layer.0.cross_attn."
    state = {key.replace(one, one.replace("attn.", "attn_v.")): weight for key, weight in state.items()}
    with pytest.raises(ValueError, match=r"'multimodal_encoder\.encoder\.layer\.0\.cross_attn_v\."):
        ValorModel.from_official(state, small_config("clip"))


class Payload:
    def __reduce__(self):
        return (pytest.fail, ("a checkpoint ran code",))


def test_files_that_are_no_state_dict(tmp_path):
    bad = tmp_path / "bad.pt"
    torch.save({"model": Payload()}, bad)
    with pytest.raises(ValueError, match="weights_only=True"):
        ValorModel.from_official(bad)
    torch.save({"step": 3}, bad)
    with pytest.raises(ValueError, match="flat state dict"):
        ValorModel.from_official(bad)
    with pytest.raises(FileNotFoundError, match="model_step_N"):
        ValorModel.from_official(tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        ValorModel.from_official(tmp_path / "absent.pt")

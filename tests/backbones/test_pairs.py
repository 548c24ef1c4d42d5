"""The pairs of the visual-audio papers, small and through the same doors as the recipes' checkpoints."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf
import yaml
from torch import nn

from hmmoe import HMMoEConfig, MultimodalModel, get_peft_model
from hmmoe.backbones import load_tower
from hmmoe.backbones.presets import PRESETS
from hmmoe.backbones.shared import shared_tower
from hmmoe.data import Collator
from hmmoe.engine.assemble import build_model
from hmmoe.tasks.avs import S4
from small import wake

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
PAIRS = {  # the recipe and the preset of the same towers, whose share test_presets.py counts
    "avs_s4": "swinv2-l+hts-at",
    "avs_ms3": "swinv2-l+hts-at",
    "avs_s4_shared_swinv2": "swinv2-l-shared",
    "avs_s4_vit_ast": "vit-b+ast",
    "avs_s4_clip_whisper": "clip-b16+whisper-small",
}


def saved(model: nn.Module, processor, folder: Path) -> str:
    """A checkpoint as the hub has it."""
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return str(folder)


def swin(folder: Path) -> str:
    config = tf.Swinv2Config(
        image_size=32, patch_size=2, embed_dim=8, depths=[1, 1, 3, 1], num_heads=[1, 1, 2, 2], window_size=4
    )
    size = {"height": 32, "width": 32}
    return saved(tf.Swinv2Model(config), tf.ViTImageProcessor(size=size), folder)


def clap(folder: Path) -> str:
    audio = tf.ClapAudioConfig(
        patch_embeds_hidden_size=8, hidden_size=64, depths=[1, 1, 2, 1], num_attention_heads=[1, 1, 2, 2]
    )
    text = tf.ClapTextConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    config = tf.ClapConfig(audio_config=audio.to_dict(), text_config=text.to_dict(), projection_dim=8)
    return saved(tf.ClapModel(config), tf.ClapFeatureExtractor(truncation="rand_trunc"), folder)


def rows(count: int = 2) -> list[dict]:
    rng = np.random.default_rng(0)
    return [
        {
            "index": i,
            "video": rng.integers(0, 255, (5, 40, 40, 3), dtype=np.uint8),
            "audio": [(rng.standard_normal(16000).astype(np.float32), 16000) for _ in range(5)],
            "label": rng.integers(0, 2, (5, 16, 16)).astype(np.int8),
        }
        for i in range(count)
    ]


@pytest.mark.parametrize("kind", ["hts-at", "shared"])
def test_a_pair_meets_stage_by_stage_and_its_decoder_reads_all_scales(kind, tmp_path):
    towers = {"video": load_tower(swin(tmp_path / "swin"))}
    if kind == "shared":
        towers["audio"] = shared_tower(towers, "video")
    else:
        towers["audio"] = load_tower(clap(tmp_path / "clap"), part="audio")
    task = S4(tmp_path, size=16, channels=8)
    base = build_model(task, towers)
    assert base.levels.blocks == {"video": [0, 1, 4, 5]}
    batch = Collator(towers, task)(rows(1))
    model = wake(get_peft_model(base, HMMoEConfig(rank=2, modules_to_save=["head"])))
    points = model.peft_config["default"].points
    by_stage = [{"audio": a, "video": v} for a, v in [(0, 0), (1, 1), (2, 3), (3, 4), (4, 5)]]
    assert len(points) == (5 if kind == "hts-at" else 6)
    assert kind == "shared" or points == by_stage
    output = model(**batch)
    assert output.logits["masks"].shape == (1, 5, 16, 16)
    output.loss.backward()
    for name, p in model.named_parameters():
        if p.requires_grad:
            assert p.grad is not None, name
            assert p.grad.isfinite().all(), name


@pytest.mark.parametrize("name", PAIRS)
def test_the_recipes_ask_for_a_budget_at_which_their_towers_were_counted(name):
    method = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())["method"]
    assert method == {"name": "hmmoe", "budget": 0.06}
    assert PAIRS[name] in PRESETS


@pytest.mark.parametrize("name", [*PAIRS, "ave", "llp", "avqa"])
def test_the_recipes_read_ahead_and_no_broken_clip_ends_a_run(name):
    recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    assert recipe["skip_broken"] is True
    assert recipe["train"]["workers"] == 2


def test_the_three_towers_of_avqa_meet_at_twelve_points():
    recipe = yaml.safe_load((RECIPES / "avqa.yaml").read_text())
    points = recipe["method"]["points"]
    assert [p["text"] for p in points] == [p["audio"] for p in points] == list(range(12))
    with torch.device("meta"):
        model = _three_towers()
        adapted = get_peft_model(model, HMMoEConfig(budget=recipe["method"]["budget"], points=points))
    counts = adapted.base_model.parameter_counts()
    added = counts["adapter"] + counts["router"]
    assert 0.05 <= added / (counts["backbone"] + added) <= 0.08


def _three_towers() -> nn.Module:
    pair = PRESETS["swinv2-l+hts-at"].build().get_submodule("towers")
    towers = dict(pair.named_children()) | {"text": tf.BertModel(tf.BertConfig())}
    return MultimodalModel(towers, nn.Identity(), folded=["video", "audio"])

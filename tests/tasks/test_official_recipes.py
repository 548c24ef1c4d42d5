"""Recipes of the text-visual data sets, run to the end on tiny sets in official layouts and small models."""

import json
import sys
from pathlib import Path

import pytest
from text_visual import msrvtt, msvd, nlvr2, vqav2

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "backbones"))
from systems import words_folder
from valor_reference import small_config

from hmmoe.engine.assemble import assemble
from hmmoe.engine.evaluate import evaluate, write_result
from hmmoe.engine.recipe import Recipe
from hmmoe.engine.train import train

RECIPES = Path(__file__).parents[2] / "recipes"
TEXTS = "[PAD] [UNK] [CLS] [SEP] [MASK] is it red what color who sings plays video a cat runs sentence only"
VLMO = {
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "max_text_length": 8,
    "fusion_layer": 2,
    "vocab_size": 40,
}
SETS = {
    "vqav2": vqav2,
    "nlvr2": nlvr2,
    "msrvtt_retrieval": msrvtt,
    "msvd_retrieval": msvd,
    "msrvtt_qa": msrvtt,
    "msvd_qa": msvd,
    "msrvtt_captions": msrvtt,
    "msvd_captions": msvd,
}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return words_folder(tmp_path_factory, TEXTS.split())


def tiny(recipe, folder, words, **method):
    """The shipped recipe on the set in `folder`, with a small model and one step."""
    tree = Recipe.load(RECIPES / f"{recipe}.yaml", [f"data_root={folder}"]).to_dict()
    tree["task"]["root"] = str(folder)
    tree["method"] = method
    tree["train"] |= {"max_steps": 1, "batch_size": 3, "evaluations": 1, "workers": 0}
    system = tree["model"]["name"]
    tree["model"] = {"name": system, "tokenizer": words}
    if system == "vlmo":
        tree["model"] |= {"image_size": 32, "config": VLMO}
    else:
        sizes = small_config().to_dict()
        tree["model"]["config"] = {k: v for k, v in sizes.items() if k.endswith(("_config", "_dim"))}
        tree["task"]["frames"] = 2
    return Recipe.from_dict(tree)


@pytest.mark.parametrize("name", SETS)
def test_every_baseline_learns_on_the_recipe(name, words, tmp_path):
    if name.endswith("captions"):
        pytest.importorskip("pycocoevalcap")
    folder = SETS[name](tmp_path)
    for method in ("uniadapter", "lora", "adapter_parallel", "full", "frozen"):
        rank = {} if method in ("full", "frozen") else {"rank": 2}
        parts = assemble(tiny(name, folder, words, name=method, **rank))
        rows = parts.task.dataset("train")
        loss = parts.model.train()(**parts.collator([rows[i] for i in range(3)])).loss
        loss.backward()
        idle = {n for n, p in parts.model.named_parameters() if p.requires_grad and p.grad is None}
        assert loss.isfinite(), method
        assert method == "full" or not idle, method  # which trains the heads of pre-training too


@pytest.mark.parametrize("name", SETS)
def test_a_recipe_runs_from_official_files_to_a_report(name, words, tmp_path, monkeypatch):
    if name.endswith("captions"):
        pytest.importorskip("pycocoevalcap")
        monkeypatch.setattr("hmmoe.tasks.captions._has_java", lambda: False)
    folder = SETS[name](tmp_path / "data")
    done = train(tiny(name, folder, words, name="hmmoe", rank=2, points=2), tmp_path / "run")
    assert done["metric"] in done["test"]
    assert (tmp_path / "run" / "report.html").is_file()


def test_predictions_without_public_answers_go_to_the_servers_file(words, tmp_path):
    folder = vqav2(tmp_path / "data")
    tree = Recipe.load(RECIPES / "vqav2.yaml", ["data_root=x"]).to_dict()
    tree["task"] |= {"root": str(folder), "test_set": "test-dev2015"}
    tree["method"] = {"name": "lora", "rank": 2}
    tree["model"] = {"name": "vlmo", "tokenizer": words, "image_size": 32, "config": VLMO}
    tree["train"] |= {"max_steps": 1, "batch_size": 3, "evaluations": 1, "workers": 0}
    done = train(Recipe.from_dict(tree), tmp_path / "run")
    assert "accuracy" in done["validation"]
    assert "accuracy" not in done["test"]
    assert "validation accuracy" in (tmp_path / "run" / "report.html").read_text()
    (file,) = write_result(evaluate(tmp_path / "run"), "test", tmp_path / "result")
    assert file.name == "vqav2_test-dev2015_results.json"
    found = json.loads(file.read_text())
    assert [row["question_id"] for row in found] == [201000, 201001, 202000, 202001, 203000, 203001]
    assert {row["answer"] for row in found} <= {"yes", "red"}

"""From mp4 files to a metric: prepare, train, test and write predictions, with broken clips left out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import toy
from typer.testing import CliRunner

from generated import avqa, avs_ms3, avs_s4
from hmmoe.backbones import TOWERS, Tower
from hmmoe.cli import app
from hmmoe.engine.evaluate import evaluate, write_result
from hmmoe.engine.recipe import Recipe
from hmmoe.engine.train import train
from hmmoe.tasks.ave import read_annotations
from official import ave_raw, llp_raw

RECIPES = Path(__file__).parents[2] / "recipes"
MASKS = {"size": 32, "channels": 8}
OTHERS = {  # recipe -> its data set, options for a small run, how many files its predictions are
    "llp": (llp_raw, {}, 2),
    "avs_s4": (avs_s4, MASKS, 2 * 5),
    "avs_ms3": (avs_ms3, MASKS, 2 * 5),
    "avqa": (avqa, {"segments": 2, "channels": 8, "question": "lstm"}, 1),
}
COUNTS = {"trainSet.txt": 8, "valSet.txt": 2, "testSet.txt": 3}


def _ear():
    """A tower that hears the level of a sixth of a second at a time."""

    def preprocess(items):
        levels = [np.abs(wave[: len(wave) // 18 * 18]).reshape(6, 3, -1).mean(2) for wave, _ in items]
        return {"x": torch.tensor(np.stack(levels), dtype=torch.float32) * 8 - 1}

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Tower(toy.Encoder(24).eval().requires_grad_(False), preprocess, "audio", 24)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A recipe and AVE as downloaded, of one kind of event; one training video is cut short, one missing."""
    folder = tmp_path_factory.mktemp("mp4")
    rows, splits = [], {}
    for split, count in COUNTS.items():
        splits[split] = list(range(len(rows), len(rows) + count))
        rows += [("Bark", f"{split[:5]}{i:06d}", i % 5, i % 5 + 4) for i in range(count)]
    raw = ave_raw(folder / "raw", rows, splits)
    cut = raw / "AVE" / "train000003.mp4"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (raw / "AVE" / "train000005.mp4").unlink()
    TOWERS["toy-ear"] = _ear
    (folder / "recipe.yaml").write_text(
        json.dumps(
            {
                "task": {"name": "ave", "root": "{data_root}"},
                "towers": {"video": {"name": "toy-image"}, "audio": {"name": "toy-ear"}},
                "method": {"name": "hmmoe", "budget": 0.5, "points": 2},
                "train": {"epochs": 12, "batch_size": 2, "learning_rate": 1e-2, "evaluations": 2},
                "skip_broken": True,
            }
        )
    )
    yield folder
    del TOWERS["toy-ear"]


def call(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done


def test_official_videos_become_a_trained_run_and_predictions(home):
    done = call("data", "prepare", "ave", "--raw", home / "raw", "--out", home / "ave", "--jobs", 0)
    assert "84.6% of 13 clips usable" in " ".join(done.output.split())
    assert "train000003" in done.output
    call("data", "check", home / "ave", "--jobs", 0)
    run = home / "run"
    call("train", home / "recipe.yaml", f"data_root={home / 'ave'}", "--out", run)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["rows"] == {"train": 6, "validation": 2, "test": 3}
    assert len(metrics["skipped"]) == 2
    assert metrics["test"]["accuracy"] > 85  # background alone is 60
    call("eval", run, "--result", home / "result")
    predicted = read_annotations((home / "result" / "testSet.txt").read_text().splitlines())
    assert {row.category for row in predicted} == {"Bark"}
    assert {row.video for row in predicted} == {f"testS{i:06d}" for i in range(3)}


def test_training_reads_the_videos_themselves_ahead_in_other_processes(home):
    run = home / "direct"
    words = [f"data_root={home / 'raw'}", "train.workers=1", "train.max_steps=3", "train.evaluations=1"]
    call("train", home / "recipe.yaml", *words, "--out", run)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["rows"]["train"] == 6
    assert sorted(why.split("train0000")[1][:2] for why in metrics["skipped"]) == ["03", "05"]


def test_a_broken_clip_stops_a_run_that_is_not_told_to_leave_it_out(home):
    words = [f"data_root={home / 'raw'}", "skip_broken=false", "train.max_steps=9"]
    done = CliRunner().invoke(
        app, ["train", str(home / "recipe.yaml"), *words, "--out", str(home / "strict")]
    )
    assert done.exit_code == 2
    assert "train0000" in done.stderr


def test_a_recipe_trains_from_shards_and_resumes_exactly(home):
    call(
        "data",
        "shard",
        home / "recipe.yaml",
        f"data_root={home / 'raw'}",
        "--out",
        home / "shards",
        "--jobs",
        0,
    )
    words = [f"data_root={home / 'raw'}", f"task.shards={home / 'shards'}", "skip_broken=false"]
    length = ["train.max_steps=6", "train.evaluations=2"]
    run = home / "sharded"
    call("train", home / "recipe.yaml", *words, *length, "--out", run)
    straight = json.loads((run / "metrics.json").read_text())
    assert straight["rows"] == {"train": 6, "validation": 2, "test": 3}

    class StopError(Exception):
        pass

    def stop(event):
        if event["phase"] == "train" and event["step"] > 3:
            raise StopError

    recipe, run = Recipe.load(home / "recipe.yaml", [*words, *length]), home / "stopped"
    with pytest.raises(StopError):
        train(recipe, run, report=stop)
    assert len(list(run.glob("checkpoints/*/complete"))) == 1
    resumed = train(recipe, run, resume=True)
    assert _losses(resumed) == _losses(straight)
    assert resumed["test"] == straight["test"]


def _losses(metrics):
    return [(entry["step"], entry["loss"]) for entry in metrics["curves"]["train"]]


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_recipes_run_from_official_files_to_a_report_and_predictions(name, home, tmp_path):
    make, options, count = OTHERS[name]
    tree = Recipe.load(RECIPES / f"{name}.yaml", [f"data_root={make(tmp_path / 'data')}"]).to_dict()
    tree["task"] |= options
    tree["towers"] = {"video": {"name": "toy-image"}, "audio": {"name": "toy-ear"}}
    if name == "avqa":
        tree["towers"]["text"] = {"name": "words"}
    tree["method"] = {"name": "hmmoe", "rank": 2, "points": 2}
    small = {"max_steps": 1, "batch_size": 2, "evaluations": 1, "workers": 0, "precision": "float32"}
    tree["train"] |= small
    done = train(Recipe.from_dict(tree), tmp_path / "run")
    assert done["metric"] in done["test"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:image/png;base64") >= done["rows"]["test"]  # strips of frames, masks below them
    assert len(write_result(evaluate(tmp_path / "run"), "test", tmp_path / "result")) == count

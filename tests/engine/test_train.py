"""Training runs: selection, the test at the end, equal data for all, resume after a kill, the stop at NaN."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hmmoe.engine import assemble as assembly
from hmmoe.engine import trainer as trainers
from hmmoe.engine.train import train

HMMOE = {"name": "hmmoe", "budget": 0.5, "points": 2}
TOY = Path(__file__).parent / "toy.py"


def losses(metrics):
    return [entry["loss"] for entry in metrics["curves"]["train"]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished HMMoE run on the toy task and its metrics."""
    import toy

    from hmmoe.engine.recipe import Recipe

    folder = tmp_path_factory.mktemp("runs") / "toy"
    recipe = Recipe.from_dict(toy.RECIPE | {"method": HMMOE, "prefix_cache": True})
    reports = []
    return folder, train(recipe, folder, report=reports.append), reports


def test_a_run_leaves_adapter_recipe_environment_metrics_and_report(finished):
    folder, metrics, _ = finished
    assert {f.name for f in folder.iterdir()} >= {
        "adapter_model.safetensors",
        "adapter_config.json",
        "recipe.yaml",
        "environment.json",
        "metrics.json",
        "report.html",
    }
    assert not list(folder.rglob("*.bin"))
    assert not (folder / "checkpoints").exists()
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert metrics["rows"] == {"train": 64, "validation": 24, "test": 32}
    assert metrics["steps"] == 4 * 64 // 8 == len(losses(metrics))
    assert metrics["parameters"]["share"] <= 0.5
    assert metrics["peak_mib"] > 100


def test_the_best_validation_is_what_is_kept(finished):
    _, metrics, _ = finished
    validations = metrics["curves"]["validation"]
    assert [v["step"] for v in validations] == [11, 21, 32]
    best = max(validations, key=lambda v: v["metrics"]["accuracy"])
    assert metrics["best_step"] == best["step"]
    assert metrics["validation"] == best["metrics"]


def test_progress_tells_phase_step_loss_and_metric(finished):
    _, _metrics, reports = finished
    steps = [r for r in reports if r["phase"] == "train"]
    assert [r["step"] for r in steps] == list(range(1, 33))
    assert steps[0]["steps"] == 32
    assert steps[0]["rows"] == 8
    assert steps[0]["metric"] is None
    assert steps[-1]["metric"] is not None
    assert {r["phase"] for r in reports} == {"load", "remember", "train", "validate", "test", "done"}


def test_a_finished_run_is_not_run_again(finished, monkeypatch):
    folder, metrics, _ = finished
    from hmmoe.engine.run import RunDir

    monkeypatch.setattr(assembly, "assemble", None)
    assert train(RunDir(folder).recipe(), folder, resume=True) == metrics


def test_every_method_sees_the_same_rows_in_the_same_order(recipe, tmp_path, monkeypatch):
    seen = {}

    def listen(self, model, inputs, *rest):
        seen[name].append(inputs["index"].tolist())
        return original(self, model, inputs, *rest)

    original = trainers.RunTrainer.training_step
    monkeypatch.setattr(trainers.RunTrainer, "training_step", listen)
    for name, method in (
        ("frozen", {"name": "frozen"}),
        ("lora", {"name": "lora", "rank": 2}),
        ("hmmoe", HMMOE),
    ):
        seen[name] = []
        train(recipe(method=method, train={"max_steps": 10}), tmp_path / name, test=False)
    assert seen["frozen"] == seen["lora"] == seen["hmmoe"]
    assert seen["frozen"][0] != seen["frozen"][8]  # a new order each epoch


def test_the_test_split_is_not_read_where_no_test_is_asked_for(recipe, tmp_path, monkeypatch):
    import toy

    read = []
    original = toy.ToyTask.dataset
    monkeypatch.setattr(
        toy.ToyTask, "dataset", lambda self, split: read.append(split) or original(self, split)
    )
    metrics = train(recipe(train={"max_steps": 2}), tmp_path / "run", test=False)
    assert read == ["train", "validation"]
    assert "test" not in metrics


def test_a_run_without_a_test_is_only_tested_when_it_is_run_again(recipe, tmp_path, monkeypatch):
    own = recipe(method=HMMOE, train={"max_steps": 4}, prefix_cache=True)
    whole = train(own, tmp_path / "whole")
    untested = train(own, tmp_path / "run", test=False, memory=tmp_path / "memory")
    assert not (tmp_path / "run/report.html").exists()
    monkeypatch.delattr(trainers.RunTrainer, "training_step")
    tested = train(own, tmp_path / "run", resume=True, memory=tmp_path / "memory")
    assert tested["test"] == pytest.approx(whole["test"], abs=1e-6)
    assert {k: tested[k] for k in untested if k not in ("rows", "skipped")} == {
        k: v for k, v in untested.items() if k not in ("rows", "skipped")
    }
    assert tested["rows"] == whole["rows"]
    assert (tmp_path / "run/report.html").is_file()
    assert train(own, tmp_path / "run", resume=True, test=False) == tested


def test_every_row_counts_in_an_evaluation_whatever_the_batch_size(recipe, tmp_path, monkeypatch):
    import toy

    counted, batches = [], []
    original, step = toy.ToyTask.metrics, trainers.RunTrainer.training_step

    def metrics(self, logits, labels):
        counted.append(len(labels))
        return original(self, logits, labels)

    def listen(self, model, inputs, *rest):
        batches.append(len(inputs["index"]))
        return step(self, model, inputs, *rest)

    monkeypatch.setattr(toy.ToyTask, "metrics", metrics)
    monkeypatch.setattr(trainers.RunTrainer, "training_step", listen)
    train(recipe(train={"max_steps": 10, "batch_size": 7, "evaluations": 1}), tmp_path / "run")
    assert counted == [24, 32]  # validation, test
    assert set(batches) == {7}  # training steps are of one size


def test_the_same_seed_gives_the_same_losses_with_and_without_the_prefix_cache(recipe, tmp_path):
    runs = [
        train(recipe(method=HMMOE, prefix_cache=cached), tmp_path / str(i), test=False)
        for i, cached in enumerate((False, False, True))
    ]
    assert losses(runs[0]) == losses(runs[1])
    assert losses(runs[2]) == pytest.approx(losses(runs[0]), rel=1e-4)


def test_every_way_to_train_runs(recipe, tmp_path):
    ways = {
        "precision": "bfloat16",
        "scheduler": "constant",
        "workers": 1,
        "max_grad_norm": 0,
        "weight_decay": 0,
    }
    metrics = train(recipe(method=HMMOE, train={"max_steps": 10, "evaluations": 1} | ways), tmp_path / "run")
    assert losses(metrics)[-1] < losses(metrics)[0]
    rates = [entry["learning_rate"] for entry in metrics["curves"]["train"]]
    assert rates[0] == 0
    assert rates[2:] == [1e-2] * 8


def test_head_and_adapter_may_have_their_own_rates(recipe, tmp_path):
    parts = assembly.assemble(recipe(train={"learning_rate": 1e-3, "head_learning_rate": 1e-1}))
    trainer = trainers.RunTrainer(
        parts.model,
        trainers.RunDir(tmp_path),
        parts.recipe.train,
        steps=1,
        metric="accuracy",
        metrics=parts.task.metrics,
        collator=parts.collator,
    )
    names = {id(p): name for name, p in parts.model.named_parameters()}
    for group in trainer.create_optimizer().param_groups:
        for p in group["params"]:
            head = "head" in names[id(p)]
            assert group["lr"] == (1e-1 if head else 1e-3)
            assert group["weight_decay"] == (0.01 if p.ndim > 1 else 0)


def start(folder, recipe_file, *options):
    """`hmmoe train` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(TOY), "train", str(recipe_file), "--out", str(folder), *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_run_goes_on_with_the_same_losses(recipe, tmp_path):
    slow = recipe(method=HMMOE, train={"epochs": 25, "evaluations": 20})
    file = tmp_path / "slow.yaml"
    file.write_text(slow.to_yaml())
    process = start(tmp_path / "killed", file)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("killed/checkpoints/*/complete"))) < 2:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "killed" / "metrics.json").exists()
    half = tmp_path / "killed" / "checkpoints" / "checkpoint-199"
    half.mkdir()  # as if it had been killed while it wrote one

    resumed = train(slow, tmp_path / "killed", resume=True)
    straight = train(slow, tmp_path / "straight")
    assert losses(resumed) == losses(straight)
    assert resumed["test"] == straight["test"]
    one, other = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("killed", "straight"))
    assert all(torch.equal(one[key], other[key]) for key in other)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    recipe, tmp_path, monkeypatch
):
    import toy

    bad = recipe(method=HMMOE, train={"epochs": 4, "evaluations": 8})
    count = [0]

    def poison(self, model, inputs, *rest):
        count[0] += 1
        if count[0] == 10:
            inputs["image"]["x"][0] = float("nan")
        return original(self, model, inputs, *rest)

    original = trainers.RunTrainer.training_step
    monkeypatch.setattr(trainers.RunTrainer, "training_step", poison)
    with pytest.raises(
        FloatingPointError, match=r"loss became nan at step 10, first in .*fusion point.*checkpoint-8"
    ):
        train(bad, tmp_path / "run")
    kept = tmp_path / "run" / "checkpoints" / "checkpoint-8"
    assert all(t.isfinite().all() for t in load_file(kept / "model.safetensors").values())
    assert (
        toy.ToyTask.metric
        in (tmp_path / "run" / "checkpoints" / "checkpoint-8" / "trainer_state.json").read_text()
    )


def test_weights_that_became_infinite_are_no_checkpoint(recipe, tmp_path, monkeypatch):
    def spoil(self, model, inputs, *rest):
        loss = original(self, model, inputs, *rest)
        for p in model.parameters():
            if p.grad is not None:
                p.grad.fill_(float("inf"))
        return loss

    original = trainers.RunTrainer.training_step
    monkeypatch.setattr(trainers.RunTrainer, "training_step", spoil)
    with pytest.raises(FloatingPointError, match="became infinite by step 1"):
        train(
            recipe(train={"max_steps": 2, "evaluations": 2, "max_grad_norm": 0, "warmup": 0}),
            tmp_path / "run",
        )


def test_broken_rows_stop_the_run_or_are_counted(recipe, tmp_path, monkeypatch):
    import toy

    from hmmoe.data import MediaError

    original = toy.ToyTask.read

    def read(self, split, row):
        if split == "train" and row in (3, 7):
            raise MediaError(f"image {row}.png cannot be decoded")
        return original(self, split, row)

    monkeypatch.setattr(toy.ToyTask, "read", read)
    with pytest.raises(MediaError, match=r"image [37].png"):
        train(recipe(), tmp_path / "strict")
    metrics = train(recipe(skip_broken=True), tmp_path / "lenient")
    assert metrics["rows"]["train"] == 62
    assert len(metrics["skipped"]) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": {"name": "tooy"}}, "unknown task 'tooy', did you mean 'toy'"),
        ({"task": {"name": "toy", "tran_rows": 3}}, "task.tran_rows.*did you mean 'train_rows'"),
        (
            {"towers": {"image": {"name": "toy-image"}}},
            "needs a tower for stream 'text'; add towers.text.name",
        ),
        (
            {"towers": {"image": {"name": "toy-text"}, "text": {"name": "toy-text"}}},
            "stream 'image' of task 'toy' is image, but tower 'toy-text' reads text",
        ),
        ({"towers": {"imag": {"name": "toy-image"}}}, "'imag', did you mean 'image'"),
        (
            {"towers": {"image": {"name": "toy-imag"}, "text": {"name": "toy-text"}}},
            "did you mean 'toy-image'",
        ),
        ({"method": {"name": "hmmoe", "rank": 2, "experts": {"afine": 1}}}, "did you mean 'affine'"),
        ({"method": {"name": "hmmoe", "rank": 2, "points": 9}}, "points must be between 1 and 4"),
        ({"method": {"name": "hmmoe", "budget": 1e-4}}, "smallest share"),
    ],
)
def test_what_does_not_fit_is_said_before_a_folder_is_made(recipe, tmp_path, change, said):
    with pytest.raises(ValueError, match=said):
        train(recipe(**change), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_runs_that_share_a_memory_learn_what_a_run_alone_learns(recipe, tmp_path):
    shared = recipe(
        prefix_cache=True, method={"name": "lora", "budget": 0.5, "points": [{"image": 3, "text": 2}]}
    )
    alone = train(shared, tmp_path / "alone")
    first = train(shared, tmp_path / "first", memory=tmp_path / "memory")
    files = sorted((tmp_path / "memory").iterdir())
    assert len(files) == 2  # one of each stream
    written = [file.stat().st_mtime_ns for file in files]
    second = train(shared, tmp_path / "second", memory=tmp_path / "memory")
    assert [file.stat().st_mtime_ns for file in files] == written  # all was known
    for metrics in (first, second):
        assert metrics["test"] == alone["test"]
        assert losses(metrics) == losses(alone)


def test_a_memory_is_only_shared_by_runs_with_the_same_rows_towers_and_prefix(recipe, tmp_path):
    memory = tmp_path / "memory"
    recipes = (recipe(prefix_cache=True), recipe(prefix_cache=True, task={"name": "toy", "test_rows": 8}))
    for i, one in enumerate(recipes):
        train(one, tmp_path / str(i), memory=memory)
        assert len(list(memory.iterdir())) == 2 * (i + 1)
    train(recipe(prefix_cache=True, leave_out=["text"]), tmp_path / "alone", memory=memory)
    assert len(list(memory.iterdir())) == 4  # what is remembered of a stream does not depend on the others

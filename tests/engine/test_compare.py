"""Comparisons: equal terms for all methods, selection by validation, resuming, and the form of the result."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from hmmoe.engine import compare as comparison
from hmmoe.engine.compare import compare, opening, recipe_for
from hmmoe.engine.progress import Display
from hmmoe.engine.recipe import Recipe
from hmmoe.engine.result import table
from hmmoe.engine.workers import Job, in_worker, run_all
from hmmoe.methods import METHODS
from hmmoe.options import difference

HANG = """
import os, time
from hmmoe.engine import train
from hmmoe.engine.workers import Job, in_worker, run_all

def hang(*_, **__):
    print(os.getpid(), flush=True)
    time.sleep(600)

train.train = hang  # in the worker too, which imports this file
if __name__ == "__main__":
    list(run_all([Job("x", {recipe!r}, {folder!r})], 1, 1, lambda name: print))
"""
TOY = Path(__file__).parent / "toy.py"
ROOT = Path(__file__).parents[2]
ALIKE = {"frozen": {"learning_rate": 0.01}}  # the rate of the toy recipe


@pytest.fixture
def said():
    """A display that writes to a string; `said()` gives what it wrote."""
    import io

    out = io.StringIO()
    display = Display(Console(file=out, width=200))
    return display, out.getvalue


@pytest.fixture
def jobs(monkeypatch):
    """Jobs that a comparison starts, answered by a made-up score instead of a run: best at rate 0.01."""
    started = []

    def answer(todo, workers, threads, row):
        for job in todo:
            started.append(job)
            train = job.recipe["train"]
            score = 90 - abs(train["learning_rate"] - 0.01) * 1000 + train["seed"]
            score += 10 * (job.recipe["method"].get("alpha") == 4.0)
            if train["learning_rate"] > 1:
                yield job, {"diverged": "the loss became nan at step 1"}
                continue
            metrics = {"metric": "accuracy", "validation": {"accuracy": score}, "parameters": {"share": 0.05}}
            metrics |= {
                "seconds": 2.0,
                "peak_mib": 300.0 + train["seed"],
                "steps": 7,
                "rows": {"train": 64, "test": 32},
                "curves": {
                    "train": [{"step": s, "seconds": 0.25 * s} for s in range(1, 8)],
                    "validation": [{"step": 7, "metrics": {"accuracy": score}}],
                },
            }
            yield job, metrics | ({"test": {"accuracy": score - 1}} if job.test else {})

    monkeypatch.setattr(comparison, "run_all", answer)
    monkeypatch.setattr(comparison, "in_worker", lambda *_: None)
    return started


def test_rivals_share_everything_but_the_method(recipe):
    own = recipe(
        method={"name": "hmmoe", "rank": 4, "points": 2, "dropout": 0.3, "experts": {"affine": 1}},
        rivals={"lora": {"alpha": 1.0}},
    )
    lora, frozen, hmmoe = (recipe_for(own, name, budget=0.4) for name in ("lora", "frozen", "hmmoe"))
    assert lora.method == {"name": "lora", "budget": 0.4, "points": 2, "dropout": 0.3, "alpha": 1.0}
    assert frozen.method == {"name": "frozen"}
    assert hmmoe.method == {
        "name": "hmmoe",
        "budget": 0.4,
        "points": 2,
        "dropout": 0.3,
        "experts": {"affine": 1},
    }
    for other in (lora, frozen):
        assert (other.task, other.towers) == (own.task, own.towers)
        theirs, ours = vars(other.train).copy(), vars(own.train).copy()
        assert theirs.pop("learning_rate") == METHODS[other.method["name"]].learning_rate
        ours.pop("learning_rate")
        assert theirs == ours


def test_a_rival_may_have_its_own_rate(recipe):
    assert recipe_for(recipe(rivals={"frozen": {"learning_rate": 0.5}}), "frozen").train.learning_rate == 0.5


def test_a_variant_is_the_recipe_s_method_with_some_options_changed(recipe):
    own = recipe(
        method={"name": "hmmoe", "budget": 0.4, "points": 2, "experts": {"affine": 1}},
        variants={
            "even": {"router": "uniform", "learning_rate": 0.5},
            "small": {"budget": 0.1},
            "deaf": {"leave_out": ["audio"]},
            "ready": {"train": {"modality_dropout": 0.3}},
            "large": {"rank": 2},
            "fast": {"train": 3},
            "other": {"name": "lora"},
            "lora": {},
        },
    )
    even = recipe_for(own, "even", budget=0.3)
    assert even.method == own.method | {"budget": 0.3, "router": "uniform"}
    assert (even.train.learning_rate, even.variants) == (0.5, {})
    deaf = recipe_for(own, "deaf", budget=0.3)
    assert (deaf.leave_out, deaf.method) == (["audio"], own.method | {"budget": 0.3})
    ready = recipe_for(own, "ready", budget=0.3)
    assert difference(ready.to_dict(), recipe_for(own, "hmmoe", budget=0.3).to_dict()) == [
        "train.modality_dropout"
    ]
    small = recipe_for(own, "small", budget=0.3)
    assert small.method["budget"] == 0.1
    assert small.train.learning_rate == own.train.learning_rate
    for name, message in (
        ("large", "variant 'large' is sized by a budget; remove its rank"),
        ("fast", "variants.fast.train must be a mapping of train's keys, got 3"),
        ("other", "variant 'other' varies the recipe's own method; remove its name"),
        ("lora", "variant 'lora' has the name of a method"),
        ("smal", "unknown method 'smal', did you mean 'small'"),
    ):
        with pytest.raises(ValueError, match=message):
            recipe_for(own, name)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "recipes" / "ablations").glob("*.yaml")), ids=lambda p: p.stem
)
def test_committed_ablations_vary_their_base_one_thing_at_a_time(path):
    own = Recipe.load(path, ["data_root=nowhere"])
    base = Recipe.load(ROOT / "recipes" / path.name, ["data_root=nowhere"])
    assert difference(recipe_for(own, "hmmoe").to_dict(), recipe_for(base, "hmmoe").to_dict()) == ["name"]
    assert len(own.variants) > 20
    for name in own.variants:
        changed = difference(recipe_for(own, name).to_dict(), recipe_for(own, "hmmoe").to_dict())
        assert {key.split(".")[0] for key in changed} == {"method"}
        assert recipe_for(own, name).method["budget"] == own.variants[name].get(
            "budget", own.method["budget"]
        )


def test_a_comparison_needs_a_budget(recipe):
    with pytest.raises(ValueError, match=r"give --budget or the recipe key method\.budget"):
        recipe_for(recipe(method={"name": "lora", "rank": 2}), "lora")


def test_every_method_gets_as_many_trials_and_validation_picks_the_rate(recipe, jobs, said, tmp_path):
    display, _ = said
    result = compare(
        recipe(rivals=ALIKE),
        ["frozen", "lora"],
        seeds=2,
        tune=3,
        folder=tmp_path,
        display=display,
        command="c",
    )
    tuning, final = [j for j in jobs if not j.test], [j for j in jobs if j.test]
    assert [j.recipe["train"]["seed"] for j in tuning] == [0] * 6 + [1] * 4  # the best two by two seeds
    assert {j.recipe["train"]["learning_rate"] for j in final} == {0.01}
    again = {j.folder for j in tuning} & {j.folder for j in final}  # trained by then, only tested
    assert again == {j.folder for j in final}
    assert len({j.folder for j in jobs}) == len(jobs) - len(again)
    assert set(result) == {"recipe", "command", "machine", "metric", "sizes", "methods"}
    lora = result["methods"]["lora"]
    assert lora["values"] == [89, 90]
    assert lora["learning_rate"] == 0.01
    assert lora["peak_mib"] == 301.0
    assert lora["share"] == 0.05
    assert lora["seconds"] == 2.0
    assert len(lora["trials"]) == 3
    assert lora["step_seconds"] == 0.25
    assert lora["best_rival"]["method"] == "frozen"
    assert json.loads((tmp_path / "result.json").read_text()) == result
    assert "validation accuracy" in (tmp_path / "result.html").read_text()


def test_options_are_tuned_within_the_same_number_of_trials(recipe, jobs, said, tmp_path):
    result = compare(
        recipe(rivals=ALIKE, search={"lora": {"alpha": [1.0, 4.0]}}),
        ["frozen", "lora"],
        seeds=2,
        tune=4,
        folder=tmp_path,
        display=said[0],
    )
    tuning, final = [j for j in jobs if not j.test], [j for j in jobs if j.test]
    rounds = [[j for j in tuning if j.recipe["train"]["seed"] == seed] for seed in (0, 1)]
    assert [len(r) for r in rounds] == [8, 4]  # the best two of each by another seed
    tried = [(j.recipe["train"]["learning_rate"], j.recipe["method"].get("alpha")) for j in rounds[0]]
    assert [t for t in tried if t[1]] == [(0.0056, 1.0), (0.0056, 4.0), (0.018, 1.0), (0.018, 4.0)]
    assert len(tried) == 8
    lora = result["methods"]["lora"]
    assert (lora["learning_rate"], lora["options"]) == (0.0056, {"alpha": 4.0})
    assert list(lora["trials"]) == [f"{rate}, alpha {a}" for rate in (0.0056, 0.018) for a in (1.0, 4.0)]
    assert {j.recipe["method"]["alpha"] for j in final if "lora" in j.folder} == {4.0}
    assert (tmp_path / "lora-alpha-4.0-rate0.0056-seed1") in {Path(j.folder) for j in final}
    assert all(j.recipe["search"] == {} for j in jobs)
    assert "options" not in result["methods"]["frozen"]
    assert "<b>0.0056, alpha 4.0: " in (tmp_path / "result.html").read_text()


def test_a_trial_that_diverges_is_a_trial_and_stops_nothing(recipe, jobs, said, tmp_path):
    display, wrote = said
    own = recipe(rivals={"lora": {"learning_rate": 0.5}, "frozen": {"learning_rate": 0.5}})
    result = compare(own, ["lora"], seeds=2, tune=3, folder=tmp_path, display=display)
    lora = result["methods"]["lora"]
    assert lora["trials"]["1.6"] is None
    assert lora["learning_rate"] == 0.16
    assert "lora seed 0 rate 1.6: the loss became nan at step 1" in wrote()
    assert "1.6: diverged" in (tmp_path / "result.html").read_text()
    hot = recipe(rivals={"lora": {"learning_rate": 50.0}})
    with pytest.raises(ValueError, match="every trial of lora diverged; lower its learning_rate"):
        compare(hot, ["lora"], seeds=2, tune=3, folder=tmp_path, display=display)


def test_the_opening_line_says_what_and_how_long(recipe):
    line = opening(recipe(minutes=2), ["frozen", "lora"], seeds=3, tune=2, workers=2)
    assert line == (
        "toy: frozen, lora; 3 seeds each after 2 trials on validation; 12 runs, 2 at a time, "
        "about 12 minutes on a common CPU"
    )


def test_the_table_shows_spread_or_says_that_there_is_none(recipe, jobs, said, tmp_path):
    display, wrote = said
    for seeds in (1, 2):
        display.console.print(
            table(
                compare(
                    recipe(rivals=ALIKE), ["lora", "frozen"], seeds=seeds, folder=tmp_path, display=display
                )
            )
        )
    text = wrote()
    assert "± ?" in text
    assert "one seed: the spread is unknown" in text
    assert "+0.00 (needs 2 seeds)" in text
    assert "+0.00 (no spread)" in text
    assert "89.50 ± 0.71" in text
    assert "5.00%" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["lra"]}, "unknown method 'lra', did you mean 'lora'"),
        ({"methods": []}, "methods must name each method once, got none"),
        ({"methods": ["lora", "lora"]}, "methods must name each method once"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"tune": 0}, "tune must be at least 1"),
        ({"workers": 0}, "jobs must be at least 1"),
        ({"search": {"lra": {"alpha": [1.0]}}}, "unknown method in recipe key search 'lra', did you mean"),
        ({"search": {"lora": {"alfa": [1.0]}}, "tune": 2}, r"method\.alfa.*did you mean 'alpha'"),
        ({"search": {"lora": {"alpha": [1.0, 2.0]}}, "tune": 3}, "take tune=4"),
        ({"search": {"lora": {"alpha": 1.0}}}, "search.lora.alpha must be a list of values, got 1.0"),
        ({"search": {"lora": {"budget": [0.1]}}}, "search.lora may not name budget"),
        ({"task": {"name": "toy", "select_on": "test"}}, "selects on the test rows, which no comparison may"),
        ({"rivals": {"lra": {}}}, "unknown method in recipe key rivals 'lra', did you mean 'lora'"),
        ({"out": Path("result.html")}, "out must be a .json file, got 'result.html'"),
    ],
)
def test_bad_arguments_are_named(recipe, said, tmp_path, options, message):
    keys = {key: options.pop(key) for key in ("search", "rivals", "task") if key in options}
    with pytest.raises(ValueError, match=message):
        compare(
            recipe(**keys),
            **{"methods": ["lora"], "seeds": 1, "folder": tmp_path, "display": said[0]} | options,
        )


def test_what_the_result_will_need_is_missed_before_the_first_run(recipe, jobs, said, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "find_spec", lambda name: None if name == "scipy" else name)
    with pytest.raises(ModuleNotFoundError, match="scipy"):
        compare(recipe(), ["lora"], seeds=1, folder=tmp_path, display=said[0])
    assert not jobs


def test_a_failing_run_stops_the_comparison_with_its_sentence(recipe, said, tmp_path):
    tree = recipe().to_dict() | {"task": {"name": "nothing"}}
    with pytest.raises(ChildProcessError, match="run x: unknown task 'nothing'"):
        list(run_all([Job("x", tree, str(tmp_path / "run"))], 1, 1, said[0].row))


def test_errors_of_a_function_in_a_worker_come_through_and_its_death_is_named():
    with pytest.raises(ValueError, match="invalid literal"):
        in_worker(int, "x")
    with pytest.raises(ChildProcessError, match="a worker died"):
        in_worker(os._exit, 3)


def test_a_loss_that_is_not_finite_ends_a_search_with_an_answer_and_a_run_with_an_error(
    recipe, said, tmp_path, monkeypatch
):
    from hmmoe.engine import workers
    from hmmoe.engine.train import train

    sent = []
    pipe = type(
        "Pipe", (), {"send": lambda self, message: sent.append(message), "close": lambda self: None}
    )()
    monkeypatch.setattr(workers, "_watch_parent", lambda: None)
    tree = recipe(task={"name": "toy", "poison": 3}, train={"max_steps": 9}).to_dict()
    for test in (False, True):
        workers._work(Job("x", tree, str(tmp_path / str(test)), test), pipe)
    search, run = [m for m in sent if "state" not in m]
    assert search["result"]["diverged"].startswith("the loss became nan at step")
    assert run["error"] == search["result"]["diverged"]
    monkeypatch.setattr(workers, "_work", None)  # it is known from now on
    known = Job("x", tree, str(tmp_path / "False"), False)
    assert list(run_all([known], 1, 1, said[0].row)) == [(known, search["result"])]
    with pytest.raises(FloatingPointError, match="the loss became nan at step"):
        train(Recipe.from_dict(tree), known.folder, resume=True)


def test_workers_end_when_the_comparison_is_killed(recipe, tmp_path):
    script = tmp_path / "hang.py"
    script.write_text(HANG.format(recipe=recipe().to_dict(), folder=str(tmp_path / "run")))
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    parent.kill()
    try:
        parent.communicate(timeout=60)  # the output closes only when the worker has ended too
    except subprocess.TimeoutExpired:
        os.kill(worker, signal.SIGKILL)
        raise


def test_finished_runs_start_no_process_and_other_recipes_are_refused(recipe, said, tmp_path, monkeypatch):
    from hmmoe.engine import workers
    from hmmoe.engine.train import train

    short = recipe(train={"max_steps": 2})
    metrics = train(short, tmp_path / "run", test=False)
    monkeypatch.setattr(workers, "_work", None)
    job = Job("x", short.to_dict(), str(tmp_path / "run"), test=False)
    assert list(run_all([job], 1, 1, said[0].row)) == [(job, metrics)]
    other = Job("x", recipe(train={"max_steps": 3}).to_dict(), str(tmp_path / "run"))
    fresh = Job("y", other.recipe, str(tmp_path / "fresh"))
    with pytest.raises(ValueError, match=r"another recipe \(it differs in train.max_steps\)"):
        next(run_all([fresh, other], 1, 1, said[0].row))
    assert not (tmp_path / "fresh").exists()


def test_a_trial_is_not_finished_where_a_test_is_asked_for(recipe, tmp_path):
    from hmmoe.engine.train import train

    short = recipe(train={"max_steps": 2})
    trial = Job("x", short.to_dict(), str(tmp_path / "run"), test=False)
    final = Job("x", short.to_dict(), str(tmp_path / "run"))
    train(short, tmp_path / "run", test=False)
    assert trial.done() is not None
    assert final.done() is None
    train(short, tmp_path / "run", resume=True)
    assert final.done()["test"]


def test_the_command_compares_in_processes_and_resumes(recipe, tmp_path):
    (tmp_path / "toy.yaml").write_text(recipe(train={"max_steps": 6}).to_yaml())

    compared = ("compare", "toy.yaml", "--methods=frozen,lora", "--seeds=1", "--out=result.json")

    def run(*command):
        return subprocess.run(
            [sys.executable, str(TOY), *command],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
            capture_output=True,
            text=True,
        )

    first = run(*compared)
    assert first.returncode == 0, first.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["command"].startswith("hmmoe compare toy.yaml")
    assert result["metric"] == "accuracy"
    for entry in result["methods"].values():
        assert len(entry["values"]) == 1
        assert entry["peak_mib"] > 100
    assert (tmp_path / "result.html").read_text().count("<svg") == 3
    assert (tmp_path / "runs/toy-compare/result.json").read_text() == (tmp_path / "result.json").read_text()
    reports = sorted(tmp_path.glob("runs/toy-compare/*/report.html"))
    assert len(reports) == 2
    before = [r.stat().st_mtime_ns for r in reports]
    second = run(*compared)
    assert second.returncode == 0
    assert "needs 2 seeds" in second.stdout
    assert [r.stat().st_mtime_ns for r in reports] == before
    third = run("robustness", "runs/toy-compare", "--levels=1", "--rows=8")
    assert third.returncode == 0, third.stderr
    robust = json.loads((tmp_path / "runs/toy-compare/robustness.json").read_text())
    assert robust["rows"] == 8
    assert set(robust["methods"]) == {"frozen", "lora"}

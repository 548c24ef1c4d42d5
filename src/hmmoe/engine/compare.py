"""`hmmoe compare`: several methods on one recipe: towers, rows, order, head, steps and budget alike.

Every method gets the same number of trials (see `trials`), on seed 0 and judged by validation only; the best
two are judged by the mean of seeds 0 to 2; then all seeds run as the best one did. What was a trial is not
trained again, only tested. A run is a folder, so an interrupted comparison goes on where it was.
"""

import copy
import math
import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hmmoe.engine.progress import Display
from hmmoe.engine.recipe import Recipe
from hmmoe.engine.result import collect, write
from hmmoe.engine.trials import FINALISTS, JUDGES, Trial, best, finalists, trials_of
from hmmoe.engine.workers import Job, in_worker, run_all
from hmmoe.errors import at_least_one, unknown
from hmmoe.methods import METHODS, Budgeted, make_method, method_named


def compare(
    recipe: Recipe,
    methods: Sequence[str],
    *,
    seeds: int,
    folder: str | Path,
    budget: float | None = None,
    tune: int = 1,
    workers: int = 2,
    threads: int = 1,
    display: Display,
    command: str = "",
    out: Path | None = None,
) -> dict[str, Any]:
    """Train every method with every seed and collect what came out.

    Args:
        methods: names of methods, and of the recipe's variants of its own method.
        seeds: number of seeds, 0, 1, ….
        folder: where the runs go, one folder each.
        budget: trainable share of all methods that have adapters; the recipe's if not given.
        tune: trials per method, of learning rates around its own and what the recipe's `search` names; 1
            takes its own untried.
        workers: runs at the same time, of `threads` threads each.
        command: how to repeat it, for the result.
        out: where the result goes, as JSON and as a page beside it; both also lie in `folder`.

    Returns:
        `{"recipe", "command", "machine", "metric", "sizes", "methods"}`, the form of benchmarks/results.

    Raises:
        ValueError: an unknown method, no budget or one that a method cannot meet, numbers below 1, a `tune`
            that `search` does not divide, an `out` that is no .json file, run folders of another recipe, or
            a task that selects on the test rows.
        ModuleNotFoundError: the table or its page could not be made in the end.
        ChildProcessError: a run failed.
    """
    at_least_one(seeds=seeds, tune=tune, jobs=workers, threads=threads)
    if out is not None and out.suffix != ".json":
        raise ValueError(f"out must be a .json file, got {str(out)!r}")
    _check(recipe, methods)
    recipes = {name: recipe_for(recipe, name, budget) for name in methods}
    trials = {
        name: trials_of(name, r.train.learning_rate, recipe.search.get(name, {}), tune)
        for name, r in recipes.items()
    }
    for name, own in trials.items():
        for trial in own:
            make_method(recipes[name].method | trial.options)  # complain before anything runs
    folder = Path(folder)
    memory = folder / "memory"  # of frozen prefixes, while the comparison lasts
    display.say(opening(recipe, methods, seeds, tune, workers))

    def job(name: str, trial: Trial, seed: int, test: bool) -> Job:
        tree = recipes[name].to_dict()
        tree["train"] |= {"learning_rate": trial.rate, "seed": seed}
        tree["method"] |= trial.options
        run = folder / trial.folder(name, seed)
        return Job(f"{name} seed {seed} rate {trial}", tree, str(run), test, str(memory))

    def judge(jobs: Mapping[Job, tuple[Trial, int]]) -> None:
        for done, metrics in run_all(list(jobs), workers, threads, display.row):
            trial, seed = jobs[done]
            trial.values[seed] = None
            if "diverged" in metrics:
                display.say(f"{done.name}: {metrics['diverged']}")
                continue
            trial.values[seed] = value = metrics["validation"][metrics["metric"]]
            display.say(f"{done.name}: validation {metrics['metric']} {value:.2f}")

    # Methods in turn: the first run of each fills the memory for the next.
    jobs = {
        job(name, trials[name][i], 0, tune == 1): (name, trials[name][i])
        for i in range(tune)
        for name in methods
    }
    first: dict[str, Job] = {}
    for run, (name, trial) in jobs.items():
        first.setdefault(" ".join([name, *(f"{k}={v}" for k, v in trial.options.items())]), run)
    # A method whose first run has a folder was built before.
    if new := {words: run.recipe for words, run in first.items() if not Path(run.folder).exists()}:
        in_worker(_check_sizes, new)
    if tune > 1:
        judge({run: (trial, 0) for run, (_, trial) in jobs.items()})
        judge(
            {
                job(name, trial, seed, False): (trial, seed)
                for seed in range(1, min(seeds, JUDGES))
                for name in methods
                for trial in finalists(trials[name])
            }
        )
    chosen = {name: best(name, trials[name]) for name in methods}

    results: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in methods}
    finals = {job(name, chosen[name], seed, True): (name, seed) for seed in range(seeds) for name in methods}
    for done, metrics in run_all(list(finals), workers, threads, display.row):
        name, seed = finals[done]
        results[name][seed] = metrics
        display.say(
            f"{done.name}: test {metrics['metric']} {metrics['test'][metrics['metric']]:.2f} · {done.folder}"
        )
    shutil.rmtree(memory, ignore_errors=True)
    result = collect(recipe, command, results, chosen, trials)
    for path in (folder / "result.json", *([] if out is None else [out])):
        write(result, results, path)
    return result


def _check(recipe: Recipe, methods: Sequence[str]) -> None:
    """What a comparison would otherwise find out after hours."""
    if not methods or len(set(methods)) < len(methods):
        raise ValueError(f"methods must name each method once, got {', '.join(methods) or 'none'}")
    for package in ("scipy", "matplotlib", "jinja2"):  # of what comes after the last run
        if find_spec(package) is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    if recipe.task.get("select_on") == "test":
        raise ValueError("task.select_on=test selects on the test rows, which no comparison may; remove it")
    for key, allowed in (("rivals", [*METHODS]), ("search", [*METHODS, *recipe.variants])):
        for name in getattr(recipe, key):
            if name not in allowed:
                raise ValueError(unknown(f"method in recipe key {key}", name, allowed))


def _check_sizes(trees: Mapping[str, dict[str, Any]]) -> None:
    """In a worker, since it loads towers."""
    from hmmoe.engine.sizes import check_sizes

    check_sizes(trees)


def recipe_for(recipe: Recipe, method: str, budget: float | None = None) -> Recipe:
    """`recipe` with another method at the same budget, points and dropout, and what its `rivals` entry says.

    Args:
        method: of `METHODS`, or a variant of the recipe's own, which may have its own budget.

    Raises:
        ValueError: the method is unknown, has an option that it should not, or there is no budget.
    """
    allowed = [*METHODS, *recipe.variants]
    if method not in allowed:
        raise ValueError(unknown("method", method, allowed))
    if method in recipe.variants:
        own, budget = _variant(recipe, method), recipe.variants[method].get("budget", budget)
        return recipe_for(own, own.method["name"], budget)
    kind = method_named(method)
    tree = copy.deepcopy(recipe.to_dict())
    own = tree["method"]
    budget = own.get("budget") if budget is None else budget
    rival = dict(tree["rivals"].pop(method, {}))
    tree["rivals"], tree["search"], tree["variants"] = {}, {}, {}
    if method == own["name"]:
        rate = tree["train"]["learning_rate"]
    else:
        rate = kind.learning_rate
        tree["method"] = {"name": method}
        if issubclass(kind, Budgeted):
            tree["method"] |= {key: own[key] for key in ("points", "dropout") if own.get(key) is not None}
    if issubclass(kind, Budgeted):
        if budget is None:
            raise ValueError(
                "a comparison needs the same budget for all: give --budget or the recipe key method.budget"
            )
        tree["method"]["budget"] = budget
        tree["method"].pop("rank", None)
    if method == "frozen":  # the head is all there is: its rate is the one that is tuned
        tree["train"]["head_learning_rate"] = None
    tree["train"]["learning_rate"] = rival.pop("learning_rate", rate)
    tree["method"] |= rival
    make_method(tree["method"])  # complain before anything runs
    return Recipe.from_dict(tree)


def _variant(recipe: Recipe, name: str) -> Recipe:
    """`recipe` with what the variant changes: options of its method, learning rate, train or leave_out."""
    if name in METHODS:
        raise ValueError(f"variant {name!r} has the name of a method; choose another")
    changes = dict(recipe.variants[name])
    for key, why in (("name", "varies the recipe's own method"), ("rank", "is sized by a budget")):
        if key in changes:
            raise ValueError(f"variant {name!r} {why}; remove its {key}")
    tree = copy.deepcopy(recipe.to_dict()) | {"variants": {}}
    training = changes.pop("train", {})
    if not isinstance(training, dict):
        raise ValueError(
            f"recipe key variants.{name}.train must be a mapping of train's keys, got {training!r}"
        )
    tree["train"] |= training
    tree["train"]["learning_rate"] = changes.pop("learning_rate", tree["train"]["learning_rate"])
    tree["leave_out"] = changes.pop("leave_out", recipe.leave_out)
    tree["method"] |= changes
    return Recipe.from_dict(tree)


def opening(recipe: Recipe, methods: Sequence[str], seeds: int, tune: int, workers: int) -> str:
    """One line: what is going to happen, and about how long it takes."""
    runs = len(methods) * seeds
    if tune > 1:  # the best trial is the first seeds' runs
        runs += len(methods) * (tune - 1 + (min(seeds, JUDGES) - 1) * (min(tune, FINALISTS) - 1))
    line = f"{recipe.name}: {', '.join(methods)}; {seeds} seed{'s' * (seeds > 1)} each"
    if tune > 1:
        line += f" after {tune} trials on validation"
    line += f"; {runs} runs, {workers} at a time"
    if recipe.minutes:
        line += f", about {math.ceil(runs / workers) * recipe.minutes:.0f} minutes on a common CPU"
    return line

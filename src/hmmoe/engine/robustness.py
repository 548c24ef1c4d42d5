"""`hmmoe robustness`: finished runs of a comparison, tested with a stream missing and with noise in a stream.

Nothing is trained. A run's figures lie in its folder, so an interrupted call goes on where it was.
"""

import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hmmoe.engine.progress import Display
from hmmoe.engine.recipe import Recipe
from hmmoe.engine.run import RunDir, machine, write_whole
from hmmoe.engine.trials import Trial

CLEAN = "clean"
LEVELS = (0.5, 1.0, 2.0)


def robustness(
    folder: str | Path,
    *,
    levels: Sequence[float] = LEVELS,
    limit: int | None = None,
    display: Display,
    command: str = "",
    out: Path | None = None,
) -> dict[str, Any]:
    """Test every run that the comparison in `folder` reports, under every condition.

    Variants that leave streams out altogether, beside others that do not, have nothing to lose there: they
    are left out and named.

    Args:
        levels: of noise, see `hmmoe.data.noise`.
        limit: test rows, a fixed draw; all of the recipe's if not given.
        command: how to repeat it, for the result.
        out: a .json file for the result, which also lies in `folder` as robustness.json.

    Returns:
        `{"recipe", "command", "machine", "metric", "rows", "conditions", "methods"}`, with the test metric of
        each seed by method and condition, and "lost", each method's mean loss over all conditions but clean.

    Raises:
        FileNotFoundError: no finished comparison there.
        ValueError: levels that are not above 0, or fewer than one row.
    """
    folder = Path(folder)
    if not (folder / "result.json").is_file():
        raise FileNotFoundError(f"{str(folder)!r} holds no finished comparison: it has no result.json")
    if not levels or min(levels) <= 0:
        raise ValueError(f"levels must be above 0, got {', '.join(f'{x:g}' for x in levels) or 'none'}")
    if limit is not None and limit < 1:
        raise ValueError(f"rows must be at least 1, got {limit}")
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    runs = {
        name: [folder / Trial.chosen(method).folder(name, seed) for seed in range(len(method["values"]))]
        for name, method in result["methods"].items()
    }
    recipes = {name: RunDir(folders[0]).recipe() for name, folders in runs.items()}
    fewest = min(len(recipe.leave_out) for recipe in recipes.values())
    for name, recipe in recipes.items():
        if len(recipe.leave_out) > fewest:
            del runs[name]
            display.say(f"{name} is not tested: it never gets {' and '.join(recipe.leave_out)}")
    conditions = _conditions(recipes[next(iter(runs))], levels)
    values: dict[str, dict[str, list[float]]] = {name: {} for name in runs}
    measured = 0
    for condition, options in conditions.items():
        for name, folders in runs.items():
            found = [_measure(run, condition, options, limit, folder / "memory", display) for run in folders]
            values[name][condition] = [metrics[result["metric"]] for metrics, _ in found]
            measured = found[0][1]
        shutil.rmtree(folder / "memory", ignore_errors=True)
        display.say(
            f"{condition}: " + ", ".join(f"{n} {statistics.mean(values[n][condition]):.2f}" for n in runs)
        )
    robust = {
        "recipe": result["recipe"],
        "command": command,
        "machine": machine(),
        "metric": result["metric"],
        "rows": measured,
        "conditions": list(conditions),
        "methods": {name: {"values": by, "lost": lost(by)} for name, by in values.items()},
    }
    for path in (folder / "robustness.json", *([] if out is None else [out])):
        write_whole(path, json.dumps(robust, indent=1, ensure_ascii=False) + "\n")
    return robust


def lost(values: Mapping[str, Sequence[float]]) -> float:
    """Mean over all conditions but clean of what is lost against clean, in points of the metric."""
    clean = statistics.mean(values[CLEAN])
    return round(statistics.mean(clean - statistics.mean(v) for c, v in values.items() if c != CLEAN), 4)


def table(result: Mapping[str, Any]) -> Any:
    """The result as a rich table: clean, and what each condition takes away; the least lost in bold."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    view = Table(
        title=f"{result['recipe']}: test {result['metric']}, and what is lost of it",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    view.add_column("method", no_wrap=True)
    for condition in [*result["conditions"], "mean"]:
        view.add_column(condition, justify="right")
    least = min(method["lost"] for method in result["methods"].values())
    for name, method in result["methods"].items():
        means = {c: statistics.mean(v) for c, v in method["values"].items()}
        changes = [f"{means[c] - means[CLEAN]:+.1f}" for c in result["conditions"] if c != CLEAN]
        style = "bold" if method["lost"] == least else None
        view.add_row(name, f"{means[CLEAN]:.1f}", *changes, f"{-method['lost']:+.1f}", style=style)
    return view


def _conditions(recipe: Recipe, levels: Sequence[float]) -> dict[str, dict[str, Any]]:
    """Condition in words -> options of `evaluate`. All runs that are tested have the same streams."""
    from hmmoe.tasks import TASKS

    task = TASKS[recipe.task["name"]]
    streams = [m for m in task.streams if m not in recipe.leave_out]
    groups = [[m for m in group if m in streams] for group in task.groups or [streams]]
    conditions: dict[str, dict[str, Any]] = {CLEAN: {}}
    # without a group's last stream there would be nothing to answer from
    conditions |= {f"no {m}": {"without": [m]} for group in groups if len(group) > 1 for m in group}
    for m in streams:
        conditions |= {f"{m} noise {level:g}": {"noise": {m: level}} for level in levels}
    return conditions


def _measure(
    run: Path, condition: str, options: dict[str, Any], limit: int | None, memory: Path, display: Display
) -> tuple[dict[str, float], int]:
    """The run's test metrics under a condition and their number of rows, from its folder where known."""
    from hmmoe.engine.evaluate import evaluate

    file = run / "robustness.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    key = condition if limit is None else f"{condition}, {limit} rows"
    if key not in known:
        report = display.row(f"{run.name} {condition}")
        found = evaluate(run, "test", report, limit=limit, memory=memory, **options)
        report({"phase": "done"})
        known[key] = {"rows": len(found.rows), "metrics": found.metrics}
        write_whole(file, json.dumps(known, indent=1, ensure_ascii=False) + "\n")
    return known[key]["metrics"], known[key]["rows"]

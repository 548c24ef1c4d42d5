"""`hmmoe robustness`: finished runs of a comparison, tested with a stream missing and with noise in a stream.

Nothing is trained. A run's figures lie in its folder, so an interrupted call goes on where it was.
"""

import json
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hmmoe.engine.progress import Display
from hmmoe.engine.recipe import Recipe
from hmmoe.engine.run import RunDir, machine
from hmmoe.engine.trials import Trial
from hmmoe.engine.workers import run_all
from hmmoe.errors import at_least_one
from hmmoe.files import read_own_json, write_json

CLEAN = "clean"
LEVELS = (0.5, 1.0, 2.0)


def robustness(
    folder: str | Path,
    *,
    levels: Sequence[float] = LEVELS,
    limit: int | None = None,
    workers: int = 2,
    threads: int = 1,
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
        workers: runs that are tested at the same time, with `threads` threads each.
        command: how to repeat it, for the result, after the comparison's own.
        out: a .json file for the result, which also lies in `folder` as robustness.json.

    Returns:
        `{"recipe", "command", "machine", "metric", "rows", "conditions", "methods"}`, with the test metric of
        each seed by method and condition, and "lost", each method's mean loss over all conditions but clean.

    Raises:
        FileNotFoundError: no finished comparison there.
        ValueError: levels that are not above 0, or fewer than one row, worker or thread.
        ChildProcessError: a run could not be tested.
    """
    folder = Path(folder)
    if not (folder / "result.json").is_file():
        raise FileNotFoundError(f"{str(folder)!r} holds no finished comparison: it has no result.json")
    if not levels or min(levels) <= 0:
        raise ValueError(f"levels must be above 0, got {', '.join(f'{x:g}' for x in levels) or 'none'}")
    at_least_one(rows=limit, jobs=workers, threads=threads)
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
    memory = folder / "memory"  # of frozen prefixes, while this lasts
    tests = {
        Tested(f"{name} seed {seed}", str(run), conditions, limit, str(memory)): (name, seed)
        for name, folders in runs.items()
        for seed, run in enumerate(folders)
    }
    found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in runs}
    for test, known in run_all(list(tests), workers, threads, display.row):
        name, seed = tests[test]
        found[name][seed] = known
        figures = [f"{c} {known[c]['metrics'][result['metric']]:.2f}" for c in conditions]
        display.say(f"{test.name}: {', '.join(figures)}")
    shutil.rmtree(memory, ignore_errors=True)
    values = {
        name: {
            c: [by_seed[seed][c]["metrics"][result["metric"]] for seed in sorted(by_seed)] for c in conditions
        }
        for name, by_seed in found.items()
    }
    robust = {
        "recipe": result["recipe"],
        "command": " && ".join(filter(None, [result["command"], command])),
        "machine": machine(),
        "metric": result["metric"],
        "rows": next(iter(found.values()))[0][CLEAN]["rows"],
        "conditions": list(conditions),
        "methods": {name: {"values": by, "lost": lost(by)} for name, by in values.items()},
    }
    for path in (folder / "robustness.json", *([] if out is None else [out])):
        write_json(path, robust)
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


@dataclass(frozen=True, eq=False)
class Tested:
    """A run and the conditions to test it under, as `workers.Work`.

    Attributes:
        name: of its row in the display.
        folder: the run's.
        conditions: in words -> options of `evaluate_each`.
        limit: test rows.
        memory: folder in which runs share their frozen prefixes.
    """

    name: str
    folder: str
    conditions: dict[str, dict[str, Any]]
    limit: int | None
    memory: str

    def done(self) -> dict[str, Any] | None:
        """Condition -> rows and metrics; None where one is not known yet."""
        known = self._known()
        keys = {condition: self._key(condition) for condition in self.conditions}
        return None if set(keys.values()) - set(known) else {c: known[key] for c, key in keys.items()}

    def run(self, report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        from hmmoe.engine.evaluate import evaluate_each

        known = self._known()
        new = {c: options for c, options in self.conditions.items() if self._key(c) not in known}
        report({"phase": "load"})
        each = evaluate_each(
            self.folder, new.values(), report=report, limit=self.limit, memory=Path(self.memory)
        )
        for condition, found in zip(new, each, strict=True):
            known[self._key(condition)] = {"rows": len(found.rows), "metrics": found.metrics}
            write_json(self._file, known)
        report({"phase": "done"})
        return {condition: known[self._key(condition)] for condition in self.conditions}

    @property
    def _file(self) -> Path:
        return Path(self.folder) / "robustness.json"

    def _known(self) -> dict[str, Any]:
        return read_own_json(self._file, "delete it to test again") if self._file.is_file() else {}

    def _key(self, condition: str) -> str:
        return condition if self.limit is None else f"{condition}, {self.limit} rows"

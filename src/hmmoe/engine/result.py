"""What a comparison found: the figures of its finished runs, and their table."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hmmoe.engine.paired import against_best, in_words
from hmmoe.engine.recipe import Recipe
from hmmoe.engine.run import machine
from hmmoe.engine.trials import Trial
from hmmoe.files import write_json, write_whole

Runs = Mapping[str, Mapping[int, dict[str, Any]]]  # method -> seed -> the content of metrics.json


def collect(
    recipe: Recipe,
    command: str,
    runs: Runs,
    chosen: Mapping[str, Trial],
    trials: Mapping[str, Sequence[Trial]],
) -> dict[str, Any]:
    """The result of a comparison, in the form of benchmarks/results.

    Args:
        chosen: method -> what its runs were run with.
        trials: method -> what it was chosen from; a single one was not tried.
    """
    any_run = next(iter(next(iter(runs.values())).values()))
    values = {m: [run["test"][run["metric"]] for run in _in_order(by_seed)] for m, by_seed in runs.items()}
    methods, rivals = {}, against_best(values)
    for name, by_seed in runs.items():
        own = _in_order(by_seed)
        methods[name] = {
            "share": round(own[0]["parameters"]["share"], 6),
            "values": values[name],
            "seconds": round(statistics.mean(run["seconds"] for run in own), 2),
            "step_seconds": round(statistics.mean(step_seconds(run) for run in own), 5),
            "peak_mib": max(run["peak_mib"] for run in own),
            "learning_rate": chosen[name].rate,
            "trials": {str(t): t.value for t in trials[name]} if len(trials[name]) > 1 else {},
        }
        if chosen[name].options:
            methods[name]["options"] = chosen[name].options
        if name in rivals:
            methods[name]["best_rival"] = rivals[name]
    return {
        "recipe": recipe.name,
        "command": command,
        "machine": machine(),
        "metric": any_run["metric"],
        "sizes": {**any_run["rows"], "steps": any_run["steps"], "batch_size": recipe.train.batch_size},
        "methods": methods,
    }


def write(result: Mapping[str, Any], runs: Runs, path: Path) -> None:
    """Write the result as JSON to `path`, and its page beside it under the same name with .html."""
    from hmmoe.report import comparison_page

    curves = {
        name: [
            [(entry["step"], entry["metrics"][result["metric"]]) for entry in run["curves"]["validation"]]
            for run in _in_order(by_seed)
        ]
        for name, by_seed in runs.items()
    }
    write_whole(path.with_suffix(".html"), comparison_page(result, curves))
    write_json(path, result)


def step_seconds(run: Mapping[str, Any]) -> float:
    """Median seconds of a training step: validations, checkpoints and the start are left out.

    Args:
        run: the content of metrics.json.
    """
    curves = run["curves"]
    stops = {entry["step"] for entry in curves["validation"]}
    pairs = itertools.pairwise(curves["train"])
    steady = [
        (b["seconds"] - a["seconds"]) / (b["step"] - a["step"]) for a, b in pairs if a["step"] not in stops
    ]
    return statistics.median(steady) if steady else run["seconds"] / run["steps"]


def table(result: Mapping[str, Any]) -> Any:
    """The result as a rich table, best mean first marked."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    few = min(len(m["values"]) for m in result["methods"].values()) < 2
    view = Table(
        title=f"{result['recipe']}: test {result['metric']}",
        caption="one seed: the spread is unknown, so no difference here is shown to be real" if few else None,
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),  # narrow: fits a common terminal
    )
    view.add_column("method", no_wrap=True)
    for head in (
        f"{result['metric']} ± std",
        "vs best other",
        "share",
        "s/step",
        "MiB",
    ):
        view.add_column(head, justify="right", no_wrap=True)
    best = max(statistics.mean(m["values"]) for m in result["methods"].values())
    for name, m in result["methods"].items():
        mean = statistics.mean(m["values"])
        view.add_row(
            name,
            f"{mean:.2f} {spread(m['values'])}",
            in_words(m["best_rival"]) if "best_rival" in m else "-",
            f"{m['share']:.2%}",
            f"{m['step_seconds']:.3g}",
            f"{m['peak_mib']:.0f}",
            style="bold" if mean == best else None,
        )
    return view


def spread(values: list[float]) -> str:
    """`± standard deviation`, which one value does not have."""
    return f"± {statistics.stdev(values):.2f}" if len(values) > 1 else "± ?"


def _in_order(by_seed: Mapping[int, dict[str, Any]]) -> list[dict[str, Any]]:
    return [by_seed[seed] for seed in sorted(by_seed)]

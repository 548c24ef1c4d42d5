"""Does loading keep up with training? A run that decodes its videos anew, with 0, 1 and 2 loading processes.

    python -m benchmarks.loading RECIPE [key=value …] [--json] [--rounds 3] [--steps 30]

The rounds of all cases take turns, each on its first pass over the rows. `rows_per_second` and `busy_cores`
(CPU seconds of all processes per second) are medians over the rounds, from the first step to the last.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

WORKERS = (0, 1, 2)


def measured(recipe: Any) -> tuple[float, float]:
    """Rows per second and busy cores of a run's steps."""
    from hmmoe.engine.train import train

    seen: list[tuple[int, float, float]] = []  # step, seconds, CPU seconds

    def report(event: dict[str, Any]) -> None:
        if event["phase"] == "train":
            seen.append((event["step"], time.perf_counter(), cpu_seconds()))

    with tempfile.TemporaryDirectory() as folder:
        train(recipe, Path(folder) / "run", test=False, report=report)
    (first, began, before), (last, ended, after) = seen[0], seen[-1]
    rows = (last - first) * recipe.train.batch_size
    return rows / (ended - began), (after - before) / (ended - began)


def cpu_seconds() -> float:
    """Of this process and those it started that still run."""
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def main() -> None:
    from hmmoe.engine.recipe import Recipe

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", help="of a task whose rows are read from videos")
    parser.add_argument("overrides", nargs="*", help="keys of the recipe, as for hmmoe train")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each case (default 3)")
    parser.add_argument("--steps", type=int, default=30, help="of each run (default 30)")
    args = parser.parse_args()
    keys = [*args.overrides, f"train.max_steps={args.steps}", "train.evaluations=1", "prefix_cache=false"]
    keys += ["task.validation_rows=1"]
    cases = {w: Recipe.load(args.recipe, [*keys, f"train.workers={w}"]) for w in WORKERS}
    found: dict[int, list[tuple[float, float]]] = {w: [] for w in WORKERS}
    for _ in range(args.rounds):
        for w, recipe in cases.items():
            found[w].append(measured(recipe))
    slow = [speed for speed, _ in found[0]]
    rows = []
    for w, runs in found.items():
        speeds, cores = zip(*runs, strict=True)
        rows.append(
            {
                "workers": w,
                "rows_per_second": round(statistics.median(speeds), 2),
                "busy_cores": round(statistics.median(cores), 2),
                "speed_up": round(statistics.median(a / b for a, b in zip(speeds, slow, strict=True)), 2),
            }
        )
    if args.json:
        print(json.dumps({"cores": psutil.cpu_count(), "rows": rows}))
        return
    for row in rows:
        print("   ".join(f"{k} {v}" for k, v in row.items()))


if __name__ == "__main__":
    main()

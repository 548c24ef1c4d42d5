"""`hmmoe inspect`: what a finished run consists of, from its files alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hmmoe.engine.run import RunDir


def describe_run(path: str | Path) -> Iterator[Any]:
    """Renderables for rich: a heading, parameters by part, figures, and mean routing per fusion point.

    Raises:
        FileNotFoundError: no run there.
        ValueError: the run is unfinished.
    """
    run = RunDir(path)
    metrics, recipe = run.finished_metrics(), run.recipe()
    from rich.table import Table

    towers = ", ".join(f"{stream}: {tower['name']}" for stream, tower in recipe.encoders.items())
    yield f"[bold]{recipe.name}[/]: {recipe.method['name']} on task {recipe.task['name']}, towers {towers}"

    parts = metrics["parameters"]
    view = Table("part", "parameters", "share")
    total = parts["backbone"] + parts["adapter"]
    for part in ("backbone", "adapter", "head"):
        view.add_row(
            part, f"{parts[part]:,}", f"{parts[part] / total:.2%}" if part != "head" else "not counted"
        )
    yield view

    for split in ("validation", "test"):
        for name, value in metrics.get(split, {}).items():
            yield f"{split} {name}: {value:.4g}"

    routing = metrics.get("routing")
    if routing:
        view = Table(title="mean gate weight on the test rows")
        for name in ("point", "stream", *routing["experts"]):
            view.add_column(name, overflow="fold")  # narrow terminals break a name, they do not cut it
        for number, point in enumerate(routing["points"]):
            for stream, weights in point.items():
                view.add_row(str(number), stream, *(f"{w:.2f}" for w in weights))
        yield view

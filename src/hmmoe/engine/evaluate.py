"""`hmmoe eval`: a finished run on a split."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hmmoe.engine.run import RunDir
from hmmoe.files import write_whole

Report = Callable[[dict[str, Any]], None]


@dataclass
class Evaluation:
    """A split's figures, the logits behind them (a tensor or a mapping of tensors), mean routing, task."""

    metrics: dict[str, float]
    logits: Any
    rows: Any
    routing: dict[str, Any] | None
    task: Any


def evaluate(
    path: str | Path,
    split: str = "test",
    report: Report | None = None,
    *,
    without: Collection[str] = (),
    noise: Mapping[str, float] | None = None,
) -> Evaluation:
    """Load the run in `path` and measure it on `split`.

    Args:
        without: streams that the rows shall lack.
        noise: stream -> level of noise in it, see `hmmoe.data.noise`.

    Raises:
        FileNotFoundError: no run there.
        ValueError: the run is unfinished, or the task has no such split or stream.
    """
    return next(evaluate_each(path, [{"without": without, "noise": noise or {}}], split, report))


def evaluate_each(
    path: str | Path,
    conditions: Iterable[Mapping[str, Any]],
    split: str = "test",
    report: Report | None = None,
    *,
    limit: int | None = None,
    memory: Path | None = None,
) -> Iterator[Evaluation]:
    """Load the run in `path` once and measure it under every condition, `evaluate`'s `without` and `noise`.

    Args:
        limit: rows to measure on, a fixed draw; all of the recipe's if not given.
        memory: folder in which runs share their frozen prefixes, see `Memory`.

    Raises:
        As `evaluate`.
    """
    run = RunDir(path)
    run.finished_metrics()
    from hmmoe.engine.assemble import assemble
    from hmmoe.engine.memory import Memory

    recipe = run.recipe()
    if limit is not None:
        recipe = replace(recipe, task={**recipe.task, f"{split}_rows": limit})
    loaded = assemble(recipe, saved=run.path)
    for condition in conditions:
        parts = loaded.disturbed(condition.get("without", ()), condition.get("noise", {}))
        with tester(parts, report) as trainer, nullcontext() if memory is None else Memory(parts, memory):
            yield on_split(trainer, parts, split)


@contextmanager
def tester(parts: Any, report: Report | None) -> Iterator[Any]:
    """A `RunTrainer` that measures and does not train."""
    from hmmoe.engine.trainer import RunTrainer

    with TemporaryDirectory() as folder:  # the Trainer makes its output folder whatever it is for
        yield RunTrainer(
            parts.model,
            RunDir(folder),
            parts.recipe.train,
            steps=1,
            metric=parts.task.metric,
            metrics=parts.task.metrics,
            collator=parts.collator,
            report=report,
        )


def on_split(trainer: Any, parts: Any, split: str) -> Evaluation:
    """Measure `trainer`'s model on a split of the task."""
    from hmmoe.engine.measure import RoutingMeter
    from hmmoe.engine.trainer import TIMING, tensors

    rows = parts.rows(split)
    with RoutingMeter().watch(parts.model) as meter:
        output = trainer.predict(rows, metric_key_prefix=split)
    prefix = f"{split}_"
    metrics = {k.removeprefix(prefix): v for k, v in output.metrics.items()}
    metrics = {k: v for k, v in metrics.items() if k not in TIMING}
    return Evaluation(metrics, tensors(output.predictions), rows, meter.result(), parts.task)


def samples(parts: Any, evaluation: Evaluation, count: int) -> list[dict[str, Any]]:
    """What the task shows of `count` rows spread over the split, with the model's answers."""
    raw, places = _raw(evaluation.rows)
    total = len(places)
    chosen = [i * total // count for i in range(min(count, total))]
    return [parts.task.show(raw[places[i]], row_of(evaluation.logits, i)) for i in chosen]


def write_result(evaluation: Evaluation, split: str, folder: str | Path) -> list[Path]:
    """Write the predictions in the data set's official form into `folder`; returns the files, each whole.

    Raises:
        ValueError: the task has no such form.
    """
    raw, places = _raw(evaluation.rows)
    content = evaluation.task.result(split, [raw.number(place) for place in places], evaluation.logits)
    files = []
    for name, data in content.items():
        files.append(Path(folder) / name)
        write_whole(files[-1], data)
    return files


def _raw(rows: Any) -> tuple[Any, Sequence[int]]:
    """The task's own rows behind what was measured, and the places in them, in order."""
    return getattr(rows, "dataset", rows), getattr(rows, "rows", range(len(rows)))


def row_of(logits: Any, i: int) -> Any:
    """Row `i` of logits that are a tensor or a mapping of tensors."""
    return {k: v[i] for k, v in logits.items()} if isinstance(logits, dict) else logits[i]

"""`hmmoe train`: one run from recipe to results. Validation selects; the test split is read last, once."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hmmoe.engine.recipe import Recipe
from hmmoe.engine.run import RunDir, environment

SAMPLES = 8  # shown in the report
Report = Callable[[dict[str, Any]], None]


def train(
    recipe: Recipe,
    path: str | Path,
    *,
    resume: bool = False,
    test: bool = True,
    report: Report | None = None,
    memory: str | Path | None = None,
) -> dict[str, Any]:
    """Train, select and test the recipe in the run folder `path`; see `RunDir` for what is left there.

    Args:
        resume: go on with what is in the folder; a finished run is not run again.
        test: without it the run ends with its validation figures, as a search for a learning rate must. Such
            a run is not trained again when it is to be tested after all.
        report: is told of progress, see `progress.Display`.
        memory: folder in which runs on the same rows and towers share their frozen prefixes, see `Memory`.

    Returns:
        The content of metrics.json.

    Raises:
        ValueError: a recipe that does not fit, or a folder of another recipe.
        FloatingPointError: the loss stopped being finite, now or when the run was trained; the last good
            checkpoint is kept.
    """
    run = RunDir(path)
    run.check(recipe, resume)
    done = run.metrics()
    if done is not None and ("test" in done or not test):
        return done
    if done is not None and "diverged" in done:
        raise FloatingPointError(done["diverged"])
    report = report or (lambda _: None)
    report({"phase": "load"})
    from hmmoe.engine.assemble import assemble
    from hmmoe.engine.evaluate import tester
    from hmmoe.engine.memory import Memory

    parts = assemble(recipe, saved=None if done is None else run.path)
    remembered = Memory(parts, None if memory is None else Path(memory))
    if done is not None:
        with tester(parts, report) as trainer:
            return _finish(run, parts, trainer, remembered, done, test, report)
    run.create(recipe)
    return _fit(parts, run, test, report, remembered)


def _fit(parts: Any, run: RunDir, test: bool, report: Report, memory: Any) -> dict[str, Any]:
    from hmmoe.engine.measure import parameters, peak_mib
    from hmmoe.engine.trainer import WEIGHTS, RunTrainer, load_learning

    options = parts.recipe.train
    rows, validation = parts.rows("train"), parts.rows("validation")
    per_epoch = max(1, len(rows) // options.batch_size)
    steps = options.max_steps or max(1, round(options.epochs * per_epoch))
    trainer = RunTrainer(
        parts.model,
        run,
        options,
        steps=steps,
        metric=parts.task.metric,
        metrics=parts.task.metrics,
        collator=parts.collator,
        rows=rows,
        validation=validation,
        report=report,
    )
    checkpoint = run.newest_checkpoint()
    began = time.perf_counter()
    with memory:
        memory.fill(trainer, (rows, validation), report)
        remembering = time.perf_counter() - began
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        peak = peak_mib()  # of training, before what is remembered is written for other runs
    best = trainer.best_step
    load_learning(parts.model, run.checkpoint(best) / WEIGHTS)
    curves = trainer.curves()
    seconds = curves["train"][-1]["seconds"]
    metrics: dict[str, Any] = {
        "metric": parts.task.metric,
        "validation": next(entry["metrics"] for entry in curves["validation"] if entry["step"] == best),
        "parameters": parameters(parts.model),
        "rows": {"train": len(rows), "validation": len(validation)},
        "skipped": [*getattr(rows, "skipped", ()), *getattr(validation, "skipped", ())],
        "steps": steps,
        "best_step": best,
        "seconds": seconds,
        "remember_seconds": round(remembering, 3),
        "rows_per_second": round(steps * options.batch_size / seconds, 2),
        "peak_mib": peak,
        "curves": curves,
    }
    return _finish(run, parts, trainer, memory, metrics, test, report)


def _finish(
    run: RunDir,
    parts: Any,
    trainer: Any,
    memory: Any,
    metrics: dict[str, Any],
    test: bool,
    report: Report,
) -> dict[str, Any]:
    """Leave the adapter, the metrics and, with a test, its figures and the report in the run's folder."""
    from hmmoe.engine.evaluate import on_split, samples

    def write(folder: Path) -> dict[str, Any]:
        parts.method.save(parts.model, str(folder))
        if not test:
            return metrics
        from hmmoe.report import write_report

        with memory:
            evaluation = on_split(trainer, parts, "test")
        metrics["test"] = evaluation.metrics
        metrics["rows"]["test"] = len(evaluation.rows)
        metrics["skipped"] += getattr(evaluation.rows, "skipped", ())
        metrics["routing"] = evaluation.routing
        metrics["curves"] = metrics.pop("curves")  # the long part last
        write_report(
            folder / "report.html", parts.recipe, environment(), metrics, samples(parts, evaluation, SAMPLES)
        )
        return metrics

    done = run.finish(write)
    report({"phase": "done"})
    return done

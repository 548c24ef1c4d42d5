"""Several runs at once, each in a fresh process: its memory figures and its crash are its own."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, TypeVar

from hmmoe.engine.recipe import Recipe
from hmmoe.engine.run import RunDir

EXIT_SECONDS = 20.0  # for a worker to close down
Report = Callable[[dict[str, Any]], None]
W = TypeVar("W", bound="Work")


class Work(Protocol):
    """What a worker does, and how it is known that it was done before."""

    @property
    def name(self) -> str:
        """Of its row in the display."""

    def done(self) -> dict[str, Any] | None:
        """What came out, where it was finished before.

        Raises:
            ValueError: its folder is not fit for it.
        """

    def run(self, report: Report) -> dict[str, Any]:
        """Do it, in the worker; a ValueError, OSError or FloatingPointError ends with its sentence."""


@dataclass(frozen=True, eq=False)
class Job:
    """One run: its row's name in the display, its recipe as a mapping, its folder, and whether to test.

    Jobs on the same rows and towers share their frozen prefixes through the folder `memory`. One without a
    test whose loss stops being finite has the metrics `{"diverged": why}`.
    """

    name: str
    recipe: dict[str, Any]
    folder: str
    test: bool = True
    memory: str | None = None

    def done(self) -> dict[str, Any] | None:
        """The metrics of a run that was finished before, and tested where it shall be."""
        run = RunDir(self.folder)
        run.check(Recipe.from_dict(self.recipe), resume=True)
        metrics = run.metrics()
        return metrics if metrics is None or not self.test or "test" in metrics else None

    def run(self, report: Report) -> dict[str, Any]:
        from hmmoe.engine.train import train

        recipe = Recipe.from_dict(self.recipe)
        try:
            return train(recipe, self.folder, resume=True, test=self.test, memory=self.memory, report=report)
        except FloatingPointError as error:
            if self.test:
                raise
            diverged = {"diverged": str(error)}  # an answer as good as any for a search, known from now on
            return RunDir(self.folder).finish(lambda _: diverged)


def run_all(
    jobs: Sequence[W], workers: int, threads: int, row: Callable[[str], Report]
) -> Iterator[tuple[W, dict[str, Any]]]:
    """Run the jobs, at most `workers` at a time; yield each with what came out as it finishes.

    Args:
        threads: of each worker's tensor operations.
        row: name -> where that run's progress reports go.

    Raises:
        ValueError: the folder of a job is of another recipe; nothing has been run then.
        ChildProcessError: a run failed, with its sentence. The others are stopped and can be resumed.
    """
    context = multiprocessing.get_context("spawn")
    finished = {job: job.done() for job in jobs}
    yield from ((job, result) for job, result in finished.items() if result is not None)
    waiting = [job for job in reversed(jobs) if finished[job] is None]
    running: dict[Connection, tuple[W, Any, Report]] = {}
    with _environment(OMP_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM="false"):
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    job = waiting.pop()
                    receiver, sender = context.Pipe(duplex=False)
                    process = context.Process(target=_work, args=(job, sender), daemon=True)
                    process.start()
                    sender.close()
                    running[receiver] = (job, process, row(job.name))
                for receiver in wait(list(running)) if running else ():  # type: ignore[assignment]
                    job, process, report = running[receiver]
                    try:
                        message = receiver.recv()
                    except EOFError:
                        process.join()
                        raise ChildProcessError(
                            f"run {job.name} died with exit code {process.exitcode}"
                        ) from None
                    if "state" in message:
                        report(message["state"])
                        continue
                    del running[receiver]
                    _end(process)
                    if "error" in message:
                        raise ChildProcessError(f"run {job.name}: {message['error']}")
                    yield job, message["result"]
        finally:
            for _, process, _ in running.values():
                process.terminate()
                _end(process)


def _end(process: Any) -> None:
    """Wait for a worker that has said its last word; one that some library's thread keeps alive is killed."""
    process.join(EXIT_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()


def in_worker(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)` in a process of its own, so that what it loads is gone with it.

    Raises:
        ChildProcessError: the process died. Exceptions of `function` come through.
    """
    context = multiprocessing.get_context("spawn")
    with (
        _environment(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false"),
        ProcessPoolExecutor(1, context, initializer=_watch_parent) as pool,
    ):
        try:
            return pool.submit(function, *args).result()
        except BrokenProcessPool:
            raise ChildProcessError("a worker died; was there too little memory?") from None


def _work(job: Work, pipe: Connection) -> None:
    """In the worker: send reports, then the result or an error's sentence."""
    _watch_parent()
    try:
        pipe.send({"result": job.run(lambda state: pipe.send({"state": state}))})
    except (ValueError, OSError, FloatingPointError) as error:
        pipe.send({"error": str(error)})
    finally:
        pipe.close()


def _watch_parent() -> None:
    """In a worker: see to it that it does not outlive its parent."""
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """In a thread of the worker: end the worker when its parent is gone, be it by kill -9.

    Whatever the worker was writing stays as `RunDir` leaves it on a kill: resumable.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a worker has a parent"
    parent.join()
    os._exit(1)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Environment variables as the workers shall find them."""
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value

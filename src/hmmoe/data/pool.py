"""One function over many jobs in several processes, such that a job that kills its process stops no other."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any


class Died:
    """What stands for the result of a job whose process died, say in a decoder that crashed."""


def each(work: Callable[[Any], Any], jobs: Sequence[Any], workers: int) -> Iterator[tuple[Any, Any]]:
    """`(job, work(job))` as they come, in any order; the result is a `Died` where its process died.

    Args:
        work: picklable, as are the jobs and results. An exception of it ends everything and comes out here.
        workers: processes; 0 does the work in this one.
    """
    if not workers:
        yield from ((job, work(job)) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")
    waiting = list(reversed(jobs))
    busy: dict[Connection, tuple[Any, Any]] = {}  # pipe -> the job it is at, its process
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                here, there = context.Pipe()
                process = context.Process(target=_serve, args=(work, there), daemon=True)
                process.start()
                there.close()
                busy[here] = (waiting.pop(), process)
                here.send(busy[here][0])
            for pipe in wait(list(busy)):
                assert isinstance(pipe, Connection)
                job, process = busy[pipe]
                try:
                    result = pipe.recv()
                except (EOFError, ConnectionError):
                    del busy[pipe]
                    process.join()
                    yield job, Died()
                    continue
                if isinstance(result, Exception):
                    raise result
                if waiting:
                    busy[pipe] = (waiting.pop(), process)
                    pipe.send(busy[pipe][0])
                else:
                    del busy[pipe]
                    pipe.close()  # the process ends by itself
                yield job, result
    finally:
        for _, process in busy.values():
            process.terminate()


def _serve(work: Callable[[Any], Any], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    while True:
        try:
            job = pipe.recv()
        except (EOFError, ConnectionError):
            return
        try:
            pipe.send(work(job))
        except Exception as error:
            pipe.send(error)

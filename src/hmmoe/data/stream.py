"""Streaming: rows one after the other, shared out over ranks and workers, resumed exactly where they stopped.

The rows of an epoch are cut into chunks of one batch. Rank r of R takes chunks r, r + R, …; of these, worker
w of W takes every W-th. DataLoader collects workers in turn, so a rank sees the same batches in the same
order for any number of workers, and the number of batches delivered is all the state there is.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from hmmoe.data.media import MediaError
from hmmoe.errors import at_least_one


class Stream(IterableDataset):
    """Rows of `source` for one rank and, inside a DataLoader, one worker.

    Args:
        source: map-style rows (length and index), or an iterable that gives the same rows in the same order
            each time.
        batch_size: rows in a chunk; the loader's batch size.
        shuffle: a new order each epoch, a function of `seed` and the epoch (map-style sources only).
        rank, world: this process among those that share the rows.
        skip_broken: a row whose media do not decode comes as None, for `StreamLoader` to drop and count.

    A rank leaves out the last chunks that would give it more batches than another rank has.
    """

    def __init__(
        self,
        source: Any,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        skip_broken: bool = False,
    ):
        if not 0 <= rank < world:
            raise ValueError(f"rank must be from 0 to world - 1 = {world - 1}, got {rank}")
        at_least_one(batch_size=batch_size)
        self.indexed = hasattr(source, "__getitem__") and hasattr(source, "__len__")
        if shuffle and not self.indexed:
            raise ValueError("shuffle needs a source with a length and an index; shuffle the files instead")
        self.source, self.batch_size, self.shuffle, self.seed = source, batch_size, shuffle, seed
        self.rank, self.world, self.skip_broken = rank, world, skip_broken
        self.epoch = 0
        self.start = 0  # batches of this epoch already delivered to this rank

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        reads = self._reads()
        chunk = 0
        while True:
            # One chunk of every rank at a time: all ranks get a batch or none does.
            turn = [list(islice(reads, self.batch_size)) for _ in range(self.world)]
            if not turn[-1]:
                return
            if chunk >= self.start and (chunk - self.start) % workers == worker:
                for read in turn[self.rank]:
                    try:
                        yield read()
                    except MediaError:
                        if not self.skip_broken:
                            raise
                        yield None
            chunk += 1

    def _reads(self) -> Iterator[Callable[[], Any]]:
        """One call per row in this epoch's order; calling it decodes the row."""
        if not self.indexed:
            return (partial(_same, row) for row in self.source)
        order = torch.arange(len(self.source))
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            order = torch.randperm(len(self.source), generator=generator)
        return (partial(self.source.__getitem__, i) for i in order.tolist())


def _same(row: Any) -> Any:
    return row


class StreamLoader:
    """Batches of a `Stream` with `state_dict` and `load_state_dict` for an exact resume.

    Args:
        stream: the rows.
        collate: rows -> batch, a `Collator`.
        num_workers: loading processes; the batches do not depend on it.

    Attributes:
        skipped: broken rows left out so far (`skip_broken`).
    """

    def __init__(self, stream: Stream, collate: Callable[[list[Any]], Any], *, num_workers: int = 0):
        self.stream, self.collate, self.num_workers = stream, collate, num_workers
        self.skipped = 0

    def __iter__(self) -> Iterator[Any]:
        """The rest of this epoch; the next call gives the next epoch."""
        loader = DataLoader(
            self.stream,
            batch_size=self.stream.batch_size,
            num_workers=self.num_workers,
            collate_fn=self._collate,
        )
        done = self.stream.start
        for broken, batch in loader:
            self.skipped += broken
            done += 1
            self._done = done
            if batch is not None:
                yield batch
        self.stream.epoch += 1
        self.stream.start = self._done = 0

    def _collate(self, rows: list[Any]) -> tuple[int, Any]:
        good = [row for row in rows if row is not None]
        return len(rows) - len(good), self.collate(good) if good else None

    _done = 0

    def state_dict(self) -> dict[str, int]:
        """Where the stream is: after the batch that was yielded last."""
        return {
            "epoch": self.stream.epoch,
            "batches": self._done,
            "seed": self.stream.seed,
            "skipped": self.skipped,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there.

        Raises:
            ValueError: the state is of a stream with another seed, whose order is another.
        """
        if state["seed"] != self.stream.seed:
            raise ValueError(
                f"the saved stream has seed {state['seed']}, this one {self.stream.seed}; use the same"
            )
        self.stream.epoch, self.stream.start = state["epoch"], state["batches"]
        self._done, self.skipped = state["batches"], state["skipped"]

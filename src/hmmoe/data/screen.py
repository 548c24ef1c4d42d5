"""Rows whose media cannot be read, found before training, where rows are read anew each time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from hmmoe.data.media import MediaError
from hmmoe.data.pool import Died, each


class Screened(Dataset):
    """A map-style data set without its broken rows.

    Every row is read once, now, in `workers` processes.

    Attributes:
        rows: places in `dataset` of the rows that are left.
        skipped: what is wrong with each of the others.
    """

    def __init__(self, dataset: Any, workers: int, on_row: Callable[[], object] = lambda: None):
        self.dataset = dataset
        wrong: dict[int, str] = {}
        for place, why in each(_Read(dataset), range(len(dataset)), workers):
            if why is not None:
                wrong[place] = f"row {place}: reading it killed the process" if isinstance(why, Died) else why
            on_row()
        self.rows = [place for place in range(len(dataset)) if place not in wrong]
        self.skipped = [wrong[place] for place in sorted(wrong)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Any:
        return self.dataset[self.rows[i]]


@dataclass(frozen=True)
class _Read:
    """In a worker: what is wrong with a row, or None."""

    dataset: Any

    def __call__(self, place: int) -> str | None:
        try:
            self.dataset[place]
        except MediaError as error:
            return str(error)
        return None

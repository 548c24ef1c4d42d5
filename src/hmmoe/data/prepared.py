"""Preprocess each row once and keep it: epochs after the first cost no decoding."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from hmmoe.data.collate import Collator, Streams
from hmmoe.data.media import MediaError


class Prepared(Dataset):
    """A map-style data set whose rows hold the towers' input tensors in place of raw media.

    The memory is this process's: load with `num_workers=0`. Rows beyond `limit_mib` are prepared anew each
    time.

    Args:
        dataset: map-style rows of a task.
        towers: stream -> `Tower`.
        task: gives `streams` and `folded`.
        skip_broken: read all rows now and leave out those whose media do not decode; their messages are in
            `skipped`. Otherwise such a row raises `MediaError` when it is read.
        limit_mib: memory for prepared rows.
    """

    def __init__(
        self,
        dataset: Any,
        towers: Mapping[str, Any],
        task: Streams,
        *,
        skip_broken: bool = False,
        limit_mib: int = 8192,
    ):
        self.dataset = dataset
        self.collator = Collator(towers, task)
        self.room = limit_mib * 2**20
        self.kept: dict[int, dict[str, Any]] = {}
        self.skipped: list[str] = []
        self.rows = list(range(len(dataset)))
        if skip_broken:
            self.fill()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self._row(self.rows[i])

    def fill(self, on_row: Callable[[], object] = lambda: None) -> "Prepared":
        """Prepare every row now, calling `on_row` after each, and drop the broken ones into `skipped`."""
        good = []
        for row in self.rows:
            try:
                self._row(row)
                good.append(row)
            except MediaError as error:
                self.skipped.append(str(error))
            on_row()
        self.rows = good
        return self

    def _row(self, i: int) -> dict[str, Any]:
        if i in self.kept:
            return self.kept[i]
        row = dict(self.dataset[i])
        for name in self.collator.towers:
            if row.get(name) is not None:
                inputs = self.collator.prepare(name, [row[name]])
                row[name] = {key: x[0].clone() for key, x in inputs.items()}  # not a view of a larger tensor
        size = sum(
            x.nbytes for v in row.values() if isinstance(v, dict) for x in v.values() if isinstance(x, Tensor)
        )
        if size <= self.room:
            self.room -= size
            self.kept[i] = row
        return row

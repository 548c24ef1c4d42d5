"""What a task is: rows of raw media, a head with its loss, a metric, and how to show a row to a person."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hmmoe.data.media import decode_image, sound_of
from hmmoe.data.shards import Shards
from hmmoe.data.stream import Stream
from hmmoe.errors import unknown
from hmmoe.options import about, build

SPLITS = ("train", "validation", "test")
# Row numbers of different splits never meet, so that one prefix cache can serve them all.
SPLIT_OFFSET = {split: i * 2**32 for i, split in enumerate(SPLITS)}


@dataclass
class Options:
    """Options of every task; a task adds its own."""

    train_rows: int | None = field(
        default=None, metadata=about("training rows, a fixed draw; all if empty", least=1)
    )
    validation_rows: int | None = field(
        default=None, metadata=about("validation rows, a fixed draw", least=1)
    )
    test_rows: int | None = field(default=None, metadata=about("test rows, a fixed draw", least=1))
    shards: str | None = field(
        default=None,
        metadata=about("folder or address of what `hmmoe data shard` wrote, to read rows from"),
    )
    subset_seed: int = field(default=0, metadata=about("of the draws, not of the training", least=0))
    head: str = field(
        default="linear",
        metadata=about(
            "on normalised mean tokens: linear, or one hidden layer; own: the published one of a model that "
            "has a summary of its own (VLMo) or, in retrieval, compares text and media itself (VALOR)",
            choices=("linear", "mlp", "own"),
        ),
    )


class Rows(Dataset):
    """Map-style rows of one split, decoded when they are read: `{"index", <stream>: raw, "label"}`."""

    def __init__(self, read: Callable[[int], dict[str, Any]], ids: Tensor, offset: int):
        self.read, self.ids, self.offset = read, ids, offset

    def number(self, i: int) -> int:
        """The row number in the split, before any limit, of row `i`."""
        return int(self.ids[i])

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict[str, Any]:
        if not -len(self) <= i < len(self):
            raise IndexError(f"row {i} of {len(self)}")
        row = self.number(i)
        return {"index": self.offset + row, **self.read(row)}


class Task:
    """A task on a data set. Subclasses say how many rows a split has and how to read one.

    Args:
        root: the data set's folder; None where the data come with a package.
        options: fields of the class's `Options`.

    Raises:
        ValueError: an unknown option or a value that is not allowed.
        FileNotFoundError: the folder or a file of it does not exist.
    """

    name: ClassVar[str]
    streams: ClassVar[Mapping[str, str]]  # stream -> modality
    folded: ClassVar[tuple[str, ...]] = ()  # streams whose rows hold a sequence of items
    groups: ClassVar[list[list[str]] | None] = None  # streams of different groups never see each other
    levels: ClassVar[Mapping[str, int]] = {}  # streams of which the head reads that many scales on the way
    metric: ClassVar[str]  # the headline key of `metrics`, higher is better
    options_type: ClassVar[type[Options]] = Options
    writes: str | None = None  # "captions" or "answers", what its model writes in words
    system: Any = None  # the `hmmoe.backbones.systems.System` it runs on, where a recipe names a model

    def __init__(self, root: str | Path | None = None, **options: Any):
        self.options = build(self.options_type, options, "task")
        self.root = None if root is None else Path(root).expanduser()

    def folder(self) -> Path:
        """The data set's folder.

        Raises:
            FileNotFoundError: none was given, or it does not exist.
        """
        if self.root is None:
            raise FileNotFoundError(f"task {self.name!r} needs root, the folder of its data")
        if not self.root.is_dir():
            raise FileNotFoundError(f"root of task {self.name!r} is no folder: {self.root}")
        return self.root

    def size(self, split: str) -> int:
        """All rows of the split, before any limit."""
        raise NotImplementedError

    def read(self, split: str, row: int) -> dict[str, Any]:
        """`{<stream>: raw, "label": …}` of a row number below `size`; see `Tower` for raw items.

        Raises:
            MediaError: its media do not decode.
        """
        raise NotImplementedError

    def head(self, widths: Mapping[str, int]) -> nn.Module:
        """`head(states, masks) -> logits` with `head.loss(logits, labels)`, for streams of those widths.

        Of the streams in `levels` there are widths, and later states, "stream/0", "stream/1", … as well, in
        the tower's order (see `hmmoe.streams.levels`).
        """
        raise NotImplementedError

    def metrics(self, logits: Any, labels: Tensor) -> dict[str, float]:
        """Scores of a whole split; accuracies and recalls in percent."""
        raise NotImplementedError

    def show(self, row: Mapping[str, Any], logits: Any = None) -> dict[str, Any]:
        """A row for a person: `{"parts": [{"stream", "kind", "data"}], "target": words, "prediction":
        words}`.

        A part's kind says what its data are: png or wav (bytes of such a file) or text (a string).

        Args:
            row: raw, from `dataset`, or from `from_files` (then without a target).
            logits: the model's for this row, without the batch axis; None leaves the prediction None.
        """
        raise NotImplementedError

    def written(self, ids: Tensor) -> list[str]:
        """Texts of the word numbers (N, L) that a model that writes has in place of logits."""
        return self.system.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def result(self, split: str, rows: Sequence[int], logits: Any) -> dict[str, str | bytes]:
        """Predictions in the data set's official form: file name -> content. `hmmoe eval --result` writes
        them.

        Args:
            rows: row numbers of the split, in the order of the logits.
            logits: the model's, a tensor or a mapping of tensors as the head gives them.

        Raises:
            ValueError: the task has no such form.
        """
        raise ValueError(f"task {self.name!r} has no official form of predictions")

    def dataset(self, split: str) -> Rows:
        """The rows of a split, limited by `<split>_rows`.

        Raises:
            ValueError: no such split.
        """
        if split not in SPLITS:
            raise ValueError(unknown("split", split, SPLITS))
        read: Callable[[int], dict[str, Any]] = _Reader(self, split)
        if self.options.shards is None:
            ids = torch.arange(self.size(split))
        else:
            shards = Shards(self.options.shards, split)
            read, ids = shards.read, torch.tensor(list(shards.places))
        limit = getattr(self.options, f"{split}_rows")
        if limit is not None and limit < len(ids):
            generator = torch.Generator().manual_seed(self.options.subset_seed)
            ids = ids[torch.randperm(len(ids), generator=generator)[:limit].sort().values]
        return Rows(read, ids, SPLIT_OFFSET[split])

    def stream(self, split: str, **options: Any) -> Stream:
        """The same rows in streaming form; `options` are those of `Stream` (`batch_size` is needed)."""
        return Stream(self.dataset(split), **options)

    def from_files(self, **inputs: str) -> dict[str, Any]:
        """A row without a label from a path per picture or sound and the words themselves for text.

        Raises:
            ValueError: a stream that the task does not have.
            MediaError: a file that is missing or does not decode.
        """
        row: dict[str, Any] = {"index": 0, "label": None}
        for stream, value in inputs.items():
            if stream not in self.streams:
                raise ValueError(unknown(f"stream of task {self.name!r}", stream, self.streams))
            read = {"image": decode_image, "audio": sound_of, "text": str}[self.streams[stream]]
            row[stream] = read(value)  # type: ignore[operator]
        return row


@dataclass
class _Reader:
    """`task.read` of one split, picklable for worker processes."""

    task: Task
    split: str

    def __call__(self, row: int) -> dict[str, Any]:
        return self.task.read(self.split, row)


def part(stream: str, kind: str, data: bytes | str) -> dict[str, Any]:
    """One part of what `Task.show` returns."""
    return {"stream": stream, "kind": kind, "data": data}

"""A task's rows in tar files, for data that lie far away: a row is one range of one file.

    out/ train-00000.tar   ROW.video.0.png ROW.audio.0.flac ROW.text ROW.label.npy …   WebDataset's form
         train-00000.json  where each of its rows begins and how long it is
         train.json        all shards of the split, written last

Rows keep their numbers, so that a split in shards shuffles, is shared out over ranks and workers and resumes
exactly as one in files does (`Stream`, or Trainer's own loader); reading any row moves only its own bytes.
Pictures are stored as PNG and sound as 24-bit FLAC: what is read is what was written, for sound of up to 24
bits. Any address that fsspec knows (s3://, gs://, https://, a path) will do.
"""

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hmmoe.data.media import MediaError, decode_audio, decode_image, png
from hmmoe.data.pool import Died, each
from hmmoe.files import write_whole

ROWS = 256  # in a shard
END = bytes(1024)  # of a tar file
SPLIT_KEYS = {"rows", "per_shard", "shards"}  # of a split's index
SHARD_KEYS = {"file", "places", "skipped"}  # of a shard's


def write_shards(
    rows: Any,
    folder: str | Path,
    split: str,
    *,
    per_shard: int = ROWS,
    workers: int = 0,
    tell: Callable[[dict[str, Any]], None] = lambda _: None,
) -> list[str]:
    """Write the rows of `Task.dataset` as the shards of a split.

    Shards that are there already stay, so a call that was stopped can be repeated.

    Returns:
        What is wrong with each row that was left out because its media do not decode.

    Raises:
        ValueError: the folder holds this split with other numbers of rows.
        ChildProcessError: a process died.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    total = len(rows)
    plan = {"rows": total, "per_shard": per_shard}
    index = folder / f"{split}.json"
    if index.is_file() and {k: _index(index.read_bytes(), index, SPLIT_KEYS)[k] for k in plan} != plan:
        raise ValueError(f"{index} is of another number of rows or rows per shard; choose another folder")
    starts = range(0, total, per_shard)
    done: dict[int, dict[str, Any]] = {}
    write = _Write(rows, folder, split, per_shard)
    for count, (start, shard) in enumerate(each(write, starts, workers), start=1):
        if isinstance(shard, Died):
            raise ChildProcessError(f"the process that wrote {split} rows from {start} on died; run it again")
        done[start] = shard
        tell({"phase": "write", "step": count, "steps": len(starts), "rows": per_shard})
    shards = [done[start] for start in starts]
    write_whole(index, json.dumps({**plan, "shards": [s["file"] for s in shards]}))
    tell({"phase": "done"})
    return [why for shard in shards for why in shard["skipped"]]


class Shards:
    """The rows of a split in shards by their number, as `write_shards` was given them.

    Args:
        where: folder or address.
        split: its name.

    Raises:
        FileNotFoundError: there are no shards of that split.
        ValueError: an index is damaged.
    """

    def __init__(self, where: str | Path, split: str):
        self.where = str(where).rstrip("/")
        self.places: dict[int, tuple[str, int, int]] = {}  # row -> file, first byte, bytes
        for file in self._json(f"{split}.json", SPLIT_KEYS)["shards"]:
            shard = self._json(f"{Path(file).stem}.json", SHARD_KEYS)
            self.places |= {row: (file, start, size) for row, start, size in shard["places"]}

    def read(self, row: int) -> dict[str, Any]:
        """The row of that number.

        Raises:
            MediaError: the shard is cut short, or does not hold what its index says.
        """
        file, start, size = self.places[row]
        where = f"row {row} of {self.where}/{file}"
        with _opened(f"{self.where}/{file}") as shard:
            shard.seek(start)
            data = shard.read(size)
        if len(data) < size:
            raise MediaError(f"{where} cannot be read: the file is cut short")
        try:
            with tarfile.open(fileobj=io.BytesIO(data + END)) as tar:
                files = {member.name.partition(".")[2]: tar.extractfile(member) for member in tar}
                return _unpacked({name: file.read() for name, file in files.items() if file}, where)
        except (tarfile.TarError, KeyError, ValueError) as error:
            raise MediaError(f"{where} cannot be read: {error}") from error

    def _json(self, name: str, keys: set[str]) -> Any:
        try:
            with _opened(f"{self.where}/{name}") as file:
                return _index(file.read(), f"{self.where}/{name}", keys)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"the data file {name} does not exist in {self.where}; write shards with `hmmoe data shard`"
            ) from None


@dataclass(frozen=True)
class _Write:
    """In a worker: the shard of the rows from `start` on."""

    rows: Any
    folder: Path
    split: str
    per_shard: int

    def __call__(self, start: int) -> dict[str, Any]:
        stem = f"{self.split}-{start // self.per_shard:05d}"
        index = self.folder / f"{stem}.json"
        if index.is_file():
            return _index(index.read_bytes(), index, SHARD_KEYS)
        aside = self.folder / f".{stem}.tar.part"
        places, skipped = [], []
        with aside.open("wb") as file:
            for i in range(start, min(start + self.per_shard, len(self.rows))):
                try:
                    number = self.rows.number(i)
                    data = _packed(self.rows[i], f"{number:09d}")
                except MediaError as error:
                    skipped.append(str(error))
                    continue
                places.append((number, file.tell(), len(data)))
                file.write(data)
            file.write(END)
        os.replace(aside, self.folder / f"{stem}.tar")
        shard = {"file": f"{stem}.tar", "places": places, "skipped": skipped}
        write_whole(index, json.dumps(shard))
        return shard


def _index(data: bytes, where: str | Path, keys: set[str]) -> dict[str, Any]:
    """Of a split or of a shard, which holds at least `keys`."""
    try:
        index = json.loads(data)
        if not keys <= index.keys():
            raise ValueError("an entry is missing")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{where} is damaged: {error}; delete it and write the shards again") from None
    return index


def _packed(row: Mapping[str, Any], key: str) -> bytes:
    """A row as members of a tar, without the tar's end."""
    members: list[tuple[str, bytes]] = []
    form: dict[str, Any] = {"index": row["index"], "streams": {}}
    for stream, value in row.items():
        if stream == "index" or value is None:
            continue
        if stream == "label":
            members.append(("label.npy", _saved(np.asarray(value))))
            form["scalar"] = np.ndim(value) == 0
        elif isinstance(value, str):
            form["streams"][stream] = value
        else:
            single = isinstance(value, tuple) or (isinstance(value, np.ndarray) and value.ndim < 4)
            form["streams"][stream] = None if single else len(value)
            for t, item in enumerate([value] if single else value):
                members.append((f"{stream}.{t}.{_suffix(item)}", _stored(item)))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in [("row.json", json.dumps(form).encode()), *members]:
            info = tarfile.TarInfo(f"{key}.{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        end = tar.offset
    return out.getvalue()[:end]


def _unpacked(members: Mapping[str, bytes], where: str) -> dict[str, Any]:
    form = json.loads(members["row.json"])
    row: dict[str, Any] = {"index": form["index"], "label": None}
    if "label.npy" in members:
        label = np.load(io.BytesIO(members["label.npy"]), allow_pickle=False)
        row["label"] = label.item() if form["scalar"] else label
    for stream, count in form["streams"].items():
        if isinstance(count, str):
            row[stream] = count
            continue
        items = list(_items(members, stream, 1 if count is None else count, where))
        if count is None:
            row[stream] = items[0]
        else:
            row[stream] = np.stack(items) if isinstance(items[0], np.ndarray) else items
    return row


def _items(members: Mapping[str, bytes], stream: str, count: int, where: str) -> Iterator[Any]:
    for t in range(count):
        if (picture := members.get(f"{stream}.{t}.png")) is not None:
            yield decode_image(picture, f"{stream} of {where}")
        elif (sound := members.get(f"{stream}.{t}.flac")) is not None:
            yield decode_audio(sound, f"{stream} of {where}")
        else:
            raise MediaError(f"{where} lacks item {t} of {stream}")


def _suffix(item: Any) -> str:
    return "flac" if isinstance(item, tuple) else "png"


def _stored(item: Any) -> bytes:
    if not isinstance(item, tuple):
        return png(item)
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, *item, format="FLAC", subtype="PCM_24")
    return out.getvalue()


def _saved(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def _opened(address: str) -> Any:
    if "://" not in address:
        return open(address, "rb")
    import fsspec

    return fsspec.open(address, "rb").open()

"""Tiny data sets in official layouts: real mp4 files of a few pictures, with sound, and annotation files."""

import shutil
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.movies import write_movie
from hmmoe.data.sets.ave import HEADER

SIDE = 32
RATE = 16000


def tone(seconds: float, pitch: float = 440.0, level: float = 0.3) -> np.ndarray:
    return (level * np.sin(2 * np.pi * pitch * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def movie(path: Path, greys: Sequence[int], sound: np.ndarray | None = None, fps: int = 2) -> Path:
    """An mp4 whose second t is a picture of brightness `greys[t]`; `sound` at 16 kHz."""
    return write_movie(path, [np.full((SIDE, SIDE, 3), grey, np.uint8) for grey in greys], sound, RATE, fps)


AVE_ROWS = [  # category, video, start, stop; two rows are of one video
    ("Church bell", "bell0000001", 0, 10),
    ("Bark", "dog_0000001", 2, 5),
    ("Bark", "dog_0000002", 0, 4),
    ("Church bell", "bell0000002", 6, 10),
    ("Truck", "dog_0000002", 5, 9),
    ("Truck", "truck000001", 3, 6),
]
AVE_SPLITS = {"trainSet.txt": [0, 1, 2], "valSet.txt": [3], "testSet.txt": [4, 5]}


def ave_annotations(folder: Path, rows: Sequence[tuple] = AVE_ROWS, splits: dict | None = None) -> Path:
    """Annotations.txt with its header, and the three split files without one, as the data set comes."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["&".join([c, v, "good", str(a), str(b)]) for c, v, a, b in rows]
    (folder / "Annotations.txt").write_text("\n".join([HEADER, *lines]) + "\n")
    for name, numbers in (splits or AVE_SPLITS).items():
        (folder / name).write_text("\n".join(lines[n] for n in numbers) + "\n")
    return folder


def ave_raw(folder: Path, rows: Sequence[tuple] = AVE_ROWS, splits: dict | None = None) -> Path:
    """AVE as downloaded: AVE/<id>.mp4, bright and sounding where the event is."""
    ave_annotations(folder, rows, splits)
    for number, video in enumerate(dict.fromkeys(row[1] for row in rows)):
        greys, sound = [40] * 10, np.zeros(10 * RATE, np.float32)
        for _, name, start, stop in rows:
            if name == video:
                greys[start:stop] = [200] * (stop - start)
                sound[start * RATE : stop * RATE] = tone(stop - start, 300 + 100 * number)
        movie(folder / "AVE" / f"{video}.mp4", greys, sound)
    return folder


LLP_ROWS = {  # split file -> (filename, classes of the whole video, what is heard, what is seen)
    "AVVP_train.csv": [
        ("train000001_30_40", "Speech,Dog", [], []),
        ("train000002_0_10", "Singing", [], []),
        ("train000003_0_10", "Dog", [], []),
    ],
    "AVVP_val_pd.csv": [
        ("-val0000001_5_15", "Speech", [(0, 10, "Speech")], [(2, 4, "Speech"), (6, 9, "Dog")]),
        ("-val0000002_5_15", "Dog", [(1, 3, "Dog")], []),
    ],
    "AVVP_test_pd.csv": [
        ("test_000001_0_10", "Cello,Speech", [(0, 5, "Speech"), (5, 10, "Cello")], [(5, 10, "Cello")]),
        ("test_000002_0_10", "Dog", [(2, 4, "Dog"), (7, 6, "Dog")], [(2, 4, "Dog")]),
    ],
}


def llp_raw(folder: Path) -> Path:
    """LLP as its download script leaves it: video/<first 11 characters>.mp4 and the five tables."""
    folder.mkdir(parents=True, exist_ok=True)
    heard, seen = ["filename\tonset\toffset\tevent_labels"], ["filename\tonset\toffset\tevent_labels"]
    for number, (table, rows) in enumerate(LLP_ROWS.items()):
        lines = ["filename\tevent_labels", *(f"{file}\t{classes}" for file, classes, _, _ in rows)]
        (folder / table).write_text("\n".join(lines) + "\n")
        for file, _, sounds, sights in rows:
            heard += [f"{file}\t{a}\t{b}\t{name}" for a, b, name in sounds]
            seen += [f"{file}\t{a}\t{b}\t{name}" for a, b, name in sights]
            movie(folder / "video" / f"{file[:11]}.mp4", [60 + 20 * number] * 10, tone(10, 300 + 50 * number))
    (folder / "AVVP_eval_audio.csv").write_text("\n".join(heard) + "\n")
    (folder / "AVVP_eval_visual.csv").write_text("\n".join(seen) + "\n")
    return folder


def avvp_logits(heard_and_seen: Any) -> dict[str, Any]:
    """Logits of a parser that is sure of these tables (B, 2, 25, 10)."""
    sure = (heard_and_seen.float() * 20 - 10).mT  # (B, 2, 10, 25)
    whole = heard_and_seen.amax((1, 3)).float()
    return {"audio": sure[:, 0], "video": sure[:, 1], "whole": whole}


@cache
def _made(make: Callable[[Path], Path]) -> TemporaryDirectory:
    folder = TemporaryDirectory()
    make(Path(folder.name))
    return folder


def _copy(make: Callable[[Path], Path], folder: Path) -> Path:
    """The data set in `folder`; its videos are encoded once for all tests."""
    return shutil.copytree(_made(make).name, folder, dirs_exist_ok=True)


OFFICIAL = {"ave": partial(_copy, ave_raw), "avvp": partial(_copy, llp_raw)}  # task -> its data set


def perfect(task: Any, labels: Any) -> Any:
    """Logits of a model that knows the labels of the test rows."""
    import torch

    if task.name == "avvp":
        return avvp_logits(labels)
    return torch.nn.functional.one_hot(labels, len(task.classes) + 1).float()

"""LLP (Tian, Li and Xu, ECCV 2020): 11,849 ten-second videos; what is heard and what is seen labelled apart.

Tab-separated with a header. `AVVP_train.csv`, `AVVP_val_pd.csv`, `AVVP_test_pd.csv`: `filename` and
`event_labels` (a comma list, of the whole video). `AVVP_eval_audio.csv` and `AVVP_eval_visual.csv`:
`filename`, `onset`, `offset`, `event_labels`, whole seconds, half open, of the validation and test videos.
A filename is a YouTube id with `_start_end`; media are stored by its first 11 characters.
"""

import csv
from pathlib import Path
from typing import ClassVar

from hmmoe.data.sets.base import Clip, DataSet, find_file, gathered
from hmmoe.errors import unknown

CLASSES = (
    "Speech",
    "Car",
    "Cheering",
    "Dog",
    "Cat",
    "Frying_(food)",
    "Basketball_bounce",
    "Fire_alarm",
    "Chainsaw",
    "Cello",
    "Banjo",
    "Singing",
    "Chicken_rooster",
    "Violin_fiddle",
    "Vacuum_cleaner",
    "Baby_laughter",
    "Accordion",
    "Lawn_mower",
    "Motorcycle",
    "Helicopter",
    "Acoustic_guitar",
    "Telephone_bell_ringing",
    "Baby_cry_infant_cry",
    "Blender",
    "Clapping",
)
SECONDS = 10
SPLIT_FILES = {
    "train": "AVVP_train.csv",
    "validation": "AVVP_val_pd.csv",
    "test": "AVVP_test_pd.csv",
}
EVAL_FILES = {"audio": "AVVP_eval_audio.csv", "visual": "AVVP_eval_visual.csv"}


class LLPSet(DataSet):
    """See the module."""

    name = "llp"
    title = "LLP"
    frames = (
        "frame/{id}",
        "LLP_dataset/frame/{id}",
        "data/LLP_dataset/frame/{id}",
        "data/AVVP/LLP_dataset/frame/{id}",
    )
    picture = "{number:08d}.jpg"
    audio = (
        "audio/{id}.wav",
        "LLP_dataset/audio/{id}.wav",
        "wave/{id}.npy",
        "LLP_dataset/wave/{id}.npy",
        "data/LLP_dataset/wave/{id}.npy",
        "data/AVVP/LLP_dataset/wave/{id}.npy",
    )
    video = ("video/{id}.mp4", "video/{file}.mp4", "LLP_dataset/video/{id}.mp4", "videos/{id}.mp4")
    times: ClassVar = tuple(second + 0.5 for second in range(SECONDS))
    seconds = SECONDS
    official: ClassVar = {"train": 10000, "validation": 649, "test": 1200}
    inside: ClassVar = ("", "data", "LLP_dataset", "data/LLP_dataset", "data/AVVP")

    def annotations(self, root: Path) -> list[Path]:
        return [self._file(root, name) for name in (*SPLIT_FILES.values(), *EVAL_FILES.values())]

    def clips(self, root: Path) -> list[Clip]:
        ends: dict[str, int] = {}
        for kind in EVAL_FILES:
            for file, events in self.events(root, kind).items():
                ends[file] = max(ends.get(file, 0), *(offset for _, _, offset in events))
        return gathered(
            Clip(file, place(file), ends.get(file, 0), {split: 1})
            for split in SPLIT_FILES
            for file, _ in self.rows(root, split)
        )

    def rows(self, root: Path, split: str) -> list[tuple[str, list[int]]]:
        """Filename and ids of the classes of the whole video, row by row.

        Raises:
            ValueError: a row without a class, with an unknown one, or a file listed twice; says which.
        """
        path = self._file(root, SPLIT_FILES[split])
        found: dict[str, list[int]] = {}
        for line, row in _table(path, ("filename", "event_labels")):
            if row["filename"] in found:
                raise ValueError(f"{path} line {line} lists {row['filename']} for the second time")
            found[row["filename"]] = [_class(word, path, line) for word in row["event_labels"].split(",")]
        return list(found.items())

    def events(self, root: Path, kind: str) -> dict[str, list[tuple[int, int, int]]]:
        """Filename -> (class, onset, offset) of what is heard (kind audio) or seen (visual) in it.

        Six rows of the official audio file end before they begin; they hold no second, as in the official
        scores.

        Raises:
            ValueError: an unknown class, or times that are not whole seconds of 0..10; says where.
        """
        path = self._file(root, EVAL_FILES[kind])
        found: dict[str, list[tuple[int, int, int]]] = {}
        for line, row in _table(path, ("filename", "onset", "offset", "event_labels")):
            onset, offset = (_second(row[key], f"{path} line {line}: {key}") for key in ("onset", "offset"))
            event = (_class(row["event_labels"], path, line), onset, offset)
            found.setdefault(row["filename"], []).append(event)
        return found

    def _file(self, root: Path, name: str) -> Path:
        return find_file(root, "a table of LLP", [name], self.inside)


def place(file: str) -> dict[str, str]:
    """What fills the patterns for a filename such as `--3pRE0ncns_30_40`."""
    return {"id": file[:11], "file": file}


def _table(path: Path, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """(line number, row) of a tab-separated file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
                raise ValueError(
                    f"{path} lacks the column {missing[0]}; its header must read {' '.join(columns)}"
                )
            rows = []
            for row in reader:
                if any(row[name] is None for name in columns):
                    raise ValueError(f"{path} line {reader.line_num} has fewer than {len(columns)} fields")
                rows.append((reader.line_num, row))
            return rows
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text: {error}") from None


def _second(word: str, what: str) -> int:
    try:
        time = float(word)
    except ValueError:
        time = -1.0
    if not (time.is_integer() and 0 <= time <= SECONDS):
        raise ValueError(f"{what} is {word!r}, it should be a whole second of 0..{SECONDS}")
    return int(time)


def _class(word: str, path: Path, line: int) -> int:
    word = word.strip()
    if word not in CLASSES:
        raise ValueError(f"{path} line {line}: {unknown('category', word, CLASSES)}")
    return CLASSES.index(word)

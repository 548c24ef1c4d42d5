"""What `benchmarks/generate.py` makes, at the size of a test, and a talking face of two commands."""

import sys
from pathlib import Path
from typing import Any

import pandas
import torch

from official import movie, tone

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import generate

COUNTS = (3, 2, 2)
SIDE = 32


def avs_s4(folder: Path) -> Path:
    return generate.avs(folder, several=False, counts=COUNTS, side=SIDE)


def avs_ms3(folder: Path) -> Path:
    return generate.avs(folder, several=True, counts=COUNTS, side=SIDE)


def avqa(folder: Path) -> Path:
    return generate.avqa(folder, counts=(24, 4, 6), side=SIDE, seconds=2)


COMMANDS = [("bin", "blue", "at", "f", "2", "now"), ("set", "red", "by", "g", "7", "soon")]
STARTS = [0.0, 0.5, 1.0, 1.25, 1.5, 2.0]


def grid_s1_av(folder: Path) -> Path:
    """Two clips of 2.4 s a split; brightness rises by the second and the voice falls silent after one."""
    folder.mkdir(parents=True, exist_ok=True)
    places = ("command", "color", "preposition", "letter", "digit", "adverb")
    for split in ("train", "validation", "test"):
        rows = []
        for number, command in enumerate(COMMANDS):
            file = movie(folder / f"{number}.mp4", [50, 120, 190], tone(1, 300 + 300 * number), fps=25)
            rows.append(
                {
                    "id": f"{split}{number}",
                    "video": file.read_bytes(),
                    "n_frames": 60,
                    "n_samples": 38400,
                    "word_start": STARTS,
                    "word_end": [*STARTS[1:], 2.4],
                    "sentence": " ".join(command),
                    **dict(zip(places, command, strict=True)),
                }
            )
            file.unlink()
        pandas.DataFrame(rows).to_parquet(folder / f"{split}.parquet")
    return folder


GENERATED = {"avs_s4": avs_s4, "avs_ms3": avs_ms3, "avqa": avqa, "grid_s1_av": grid_s1_av}


def sure(task: Any, labels: torch.Tensor) -> torch.Tensor:
    """Logits of a model that knows these labels."""
    if task.name == "avqa":
        return torch.nn.functional.one_hot(labels[:, 0], len(task.answers)).float()
    return torch.nn.functional.one_hot(labels, len(task.words)).float()

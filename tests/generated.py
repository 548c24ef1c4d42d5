"""The generator of `benchmarks/generate.py`, and what it makes at the size of a test."""

import sys
from pathlib import Path

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


GENERATED = {"avs_s4": avs_s4, "avs_ms3": avs_ms3, "avqa": avqa}

"""Noise added to streams: what is left of a model when one modality gets worse?

    picture, sound    x + level · std(x) · ε,  ε ~ N(0, 1): level 1 is as much noise as signal, 0 dB
    text              every word becomes one of another row's with probability level / (1 + level)

so that a level says the same of all: how much noise there is to one of signal.
"""

from collections.abc import Mapping
from typing import Any
from zlib import crc32

import numpy as np
from torch.utils.data import Dataset


class Noisy(Dataset):
    """Rows of a task with noise in some streams. A row's noise depends on row and stream alone.

    So all methods and seeds see the same noise, and a higher level is more of it.

    Args:
        rows: map-style rows of a task, raw.
        levels: stream -> level, above 0.
    """

    def __init__(self, rows: Any, levels: Mapping[str, float]):
        self.rows, self.levels = rows, dict(levels)

    def __len__(self) -> int:
        return len(self.rows)

    def number(self, i: int) -> int:
        return self.rows.number(i)

    def __getitem__(self, i: int) -> dict[str, Any]:
        row = dict(self.rows[i])
        for stream, level in self.levels.items():
            if row.get(stream) is None:
                continue
            rng = np.random.default_rng([row["index"], crc32(stream.encode())])
            if isinstance(row[stream], str):
                other = self.rows[int(rng.integers(len(self)))].get(stream)
                row[stream] = noisy_text(row[stream], other or "", level, rng)
            else:
                row[stream] = noisy(row[stream], level, rng)
        return row


def noisy(item: Any, level: float, rng: np.random.Generator) -> Any:
    """A picture, a pair (waveform, samples per second), or a sequence of either, with noise.

    Raises:
        TypeError: another kind of item.
    """
    if isinstance(item, tuple) and len(item) == 2 and np.isscalar(item[1]):
        wave, rate = item
        return (wave + _noise(wave, level, rng)).astype(np.float32), rate
    if isinstance(item, list | tuple):
        return [noisy(one, level, rng) for one in item]
    pixels = np.asarray(item)
    if pixels.dtype == np.uint8 and pixels.ndim >= 2:
        return (pixels + _noise(pixels, level, rng)).round().clip(0, 255).astype(np.uint8)
    raise TypeError(f"noise can be added to pictures, sound and text, not to {type(item).__name__}")


def noisy_text(text: str, other: str, level: float, rng: np.random.Generator) -> str:
    """`text` with words replaced by words of `other`."""
    words, source = text.split(), other.split()
    replaced = rng.random(len(words)) < level / (1 + level)
    drawn = rng.integers(max(1, len(source)), size=len(words))
    return " ".join(
        source[k] if out and source else word for word, out, k in zip(words, replaced, drawn, strict=True)
    )


def _noise(x: np.ndarray, level: float, rng: np.random.Generator) -> np.ndarray:
    return level * np.std(x, dtype=np.float64) * rng.standard_normal(x.shape)

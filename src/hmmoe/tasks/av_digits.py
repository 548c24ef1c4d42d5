"""av_digits: a digit seen dimly and heard in noise (AV-MNIST style: MNIST, Free Spoken Digits, ESC-10 noise).

Accuracy = pairs named right / all pairs. The picture lost 75 % of its variance; the recording is mixed with
noise at the row's signal-to-noise ratio, -25..-10 dB. Given the digit the two are independent, so there is
nothing to gain
from one stream reading the other early: a test of whether an adapter can leave them alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from hmmoe.data.media import Clips, decode_image, png, wav
from hmmoe.data.tables import table
from hmmoe.options import about
from hmmoe.tasks.base import SPLITS, Options, Task, part
from hmmoe.tasks.heads import PooledHead

RATE = 8000


@dataclass
class AVDigitsOptions(Options):
    clean: bool = field(default=False, metadata=about("the full pictures and the recordings without noise"))


class AVDigits(Task):
    """Picture (28, 28) and one second of sound to a digit; `root` is the pack's folder."""

    name = "av_digits"
    streams: ClassVar = {"image": "image", "audio": "audio"}
    metric = "accuracy"
    options_type = AVDigitsOptions

    @cached_property
    def tables(self) -> dict[str, Any]:
        return {split: table(self.folder() / f"{split}.parquet") for split in SPLITS}

    @cached_property
    def recordings(self) -> Clips:
        file = self.folder() / "recordings.parquet"
        frame = table(file, ["rec_id", "audio"])
        return Clips(dict(zip(frame.rec_id, frame.audio, strict=True)), str(file))

    @cached_property
    def noises(self) -> Clips:
        file = self.folder() / "noise.parquet"
        frame = table(file, ["noise_id", "audio"])
        return Clips(dict(zip(frame.noise_id, frame.audio, strict=True)), str(file))

    def size(self, split: str) -> int:
        return len(self.tables[split])

    def read(self, split: str, row: int) -> dict[str, Any]:
        q = self.tables[split].iloc[row]
        column = "image_clean" if self.options.clean else "image"
        image = decode_image(q[column], f"{column} of row {row} in {self.folder() / split}.parquet")
        return {"image": image, "audio": (self._sound(q), RATE), "label": int(q.label)}

    def _sound(self, q: Any) -> np.ndarray:
        """The recording set into one second, noise at the row's ratio of power, peak at 0.9: (8000,)."""
        voice = self.recordings[q.rec_id][:RATE]
        start = min(int(q["shift"]), RATE - len(voice))
        mix = np.zeros(RATE, np.float32)
        mix[start : start + len(voice)] = voice
        if not self.options.clean:
            start = int(q.noise_offset * RATE)
            noise = self.noises[q.noise_id][start : start + RATE]
            noise = np.pad(noise, (0, RATE - len(noise)), mode="wrap")
            mix = mix + noise * (_level(voice) / (_level(noise) + 1e-8) * 10 ** (-q.snr_db / 20))
        return (mix / (np.abs(mix).max() + 1e-8) * 0.9).astype(np.float32)

    def head(self, widths: Mapping[str, int]) -> nn.Module:
        return PooledHead(widths, 10, self.options.head)

    def metrics(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        return {"accuracy": 100 * (logits.argmax(-1) == labels).double().mean().item()}

    def show(self, row: Mapping[str, Any], logits: Tensor | None = None) -> dict[str, Any]:
        return {
            "parts": [part("image", "png", png(row["image"])), part("audio", "wav", wav(*row["audio"]))],
            "target": None if row["label"] is None else str(row["label"]),
            "prediction": None if logits is None else str(int(logits.argmax())),
        }


def _level(wave: np.ndarray) -> float:
    return np.sqrt((wave**2).mean())

"""Audio-visual event localisation by segments: which event is both heard and seen in each second, or none.

    accuracy = segments labelled right / all segments, counted over the whole split

Ten one-second segments a video, each a frame and its sound; the head gives every segment its class. The pack
`ave_mini` composes real clips and photographs in the format of AVE (Tian et al., ECCV 2018), whose metric
this is.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor, nn

from hmmoe.data.entries import read_json
from hmmoe.data.media import Clips, decode_image
from hmmoe.data.tables import table
from hmmoe.tasks.ave import segment_accuracy
from hmmoe.tasks.heads import PooledHead
from hmmoe.tasks.seconds import SECONDS, SecondsTask, cut, runs, span

RATE, SIDE = 16000, 64
LEVEL = 0.06  # root mean square of a segment's sound before its gain, and of the noise at 0 dB
MARGIN = 4  # pixels by which a photograph is padded before the jittered crop


class AVEMini(SecondsTask):
    """Video (10 frames of 64 x 64) and sound (10 segments of one second) to 14 classes a segment."""

    name = "ave_mini"
    metric = "accuracy"

    @cached_property
    def classes(self) -> list[str]:
        return read_json(self.folder() / "classes.json")

    @cached_property
    def videos(self) -> dict[str, Any]:
        """Split -> table of compositions."""
        frame = table(self.folder() / "videos.parquet")
        return {split: rows.reset_index(drop=True) for split, rows in frame.groupby("split")}

    @cached_property
    def sounds(self) -> Clips:
        file = self.folder() / "audio_clips.parquet"
        frame = table(file, ["clip_id", "audio"])
        return Clips(dict(zip(frame.clip_id, frame.audio, strict=True)), str(file))

    @cached_property
    def pictures(self) -> dict[str, bytes]:
        frame = table(self.folder() / "images.parquet", ["image_id", "image"])
        return dict(zip(frame.image_id, frame.image, strict=True))

    def size(self, split: str) -> int:
        return len(self.videos[split])

    def read(self, split: str, row: int) -> dict[str, Any]:
        q = self.videos[split].iloc[row]
        frames = np.stack(
            [self._frame(key, *jitter) for key, jitter in zip(q.image_id, q.jitter, strict=True)]
        )
        sound = np.zeros((SECONDS, RATE), np.float32)
        for t, key in enumerate(q.audio_clip):
            if key:
                sound[t] = _segment(self.sounds[key], q.audio_offset[t]) * LEVEL * q.audio_gain[t]
        noise = np.random.RandomState(q.seed).randn(SECONDS * RATE).astype(np.float32)
        wave = np.clip(sound.reshape(-1) + noise * LEVEL * 10 ** (-q.noise_snr_db / 20), -1, 1).astype(
            np.float32
        )
        return {
            "video": frames,  # (10, 64, 64, 3) uint8
            "audio": cut(wave, RATE),
            "label": np.asarray(q.labels, np.int64),  # (10,)
        }

    def _frame(self, key: str, dx: int, dy: int) -> np.ndarray:
        image = decode_image(self.pictures[key], f"image {key}")
        image = np.pad(image, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), mode="edge")
        return image[dy : dy + SIDE, dx : dx + SIDE]

    def head(self, widths: Mapping[str, int]) -> nn.Module:
        return PooledHead(widths, len(self.classes), self.options.head)

    def metrics(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        return {"accuracy": 100 * segment_accuracy(logits.argmax(-1), labels)}

    def answer(self, logits: Tensor) -> list[int]:
        return logits.argmax(-1).tolist()

    def words(self, label: Any) -> str:
        """Classes with their seconds: "0-5 dog, 6-9 background"."""
        return ", ".join(f"{span(a, b)} {self.classes[c]}" for c, a, b in runs(label))


def _segment(wave: np.ndarray, offset: float) -> np.ndarray:
    """One second from `offset` seconds, wrapped around where the clip ends, at a level of 1: (RATE,)."""
    start = int(offset * RATE)
    second = wave[start : start + RATE]
    if len(second) < RATE:
        second = np.pad(second, (0, RATE - len(second)), mode="wrap")
    return second / (np.sqrt((second**2).mean()) + 1e-6)

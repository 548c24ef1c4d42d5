"""Spoken words from lips and sound: the six words of a GRID command, one by one (pack `grid_s1_av`).

    row = one word: nine pictures of the lips around it, half a second of sound around it
    logits   = W [s(picture 1), …, s(picture 9), s(sound 1), …, s(sound 5)]     five pieces of sound in order
    accuracy = words recognised / all words, each among all 51

A command reads command, colour, preposition, letter, digit, adverb ("bin blue at s 2 please"): 4, 4, 4, 25,
10 and 4 words, 51 in all (Cooke et al., JASA 2006). Times are the pack's alignments. With `snr_db` white
noise is added to the voice, the same for a clip each time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hmmoe.data.media import decode_frames, decode_track, png, wav
from hmmoe.data.tables import table
from hmmoe.options import about
from hmmoe.tasks.base import SPLITS, Options, Task, part
from hmmoe.tasks.heads import summary

PLACES = ("command", "color", "preposition", "letter", "digit", "adverb")
RATE, FPS = 16000, 25
FRAMES = 9  # pictures of a word: 0.36 s; the words last 0.1 to 0.5 s
SECONDS = 0.5  # of sound
CLIPS = 8  # decoded clips that are kept; a clip's six words follow each other


@dataclass
class GridOptions(Options):
    snr_db: float | None = field(
        default=None, metadata=about("level of the voice over added white noise in dB; clean if empty")
    )
    words: str = field(
        default="all", metadata=about("rows of all words, or of one place", choices=("all", *PLACES))
    )


class GridWords(Task):
    """Nine pictures and half a second of sound to one of 51 words."""

    name = "grid_s1_av"
    streams: ClassVar = {"video": "image", "audio": "audio"}
    folded = ("video",)
    metric = "accuracy"
    options_type = GridOptions

    def __init__(self, root: str | Path | None = None, **options: Any):
        super().__init__(root, **options)
        self.kept: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}  # decoded clips, the latest last

    @cached_property
    def tables(self) -> dict[str, Any]:
        return {split: table(self.folder() / f"{split}.parquet") for split in SPLITS}

    @cached_property
    def words(self) -> list[tuple[str, str]]:
        """(place, word) of every class, in order of place and word."""
        frame = self.tables["train"]
        return [(place, word) for place in PLACES for word in sorted(set(frame[place]))]

    @property
    def places(self) -> tuple[str, ...]:
        chosen = self._chosen.words
        return PLACES if chosen == "all" else (chosen,)

    def size(self, split: str) -> int:
        return len(self.tables[split]) * len(self.places)

    def read(self, split: str, row: int) -> dict[str, Any]:
        number, which = divmod(row, len(self.places))
        q, place = self.tables[split].iloc[number], PLACES.index(self.places[which])
        frames, wave = self.clip(split, number)
        middle = (q.word_start[place] + q.word_end[place]) / 2
        first = round(middle * FPS) - FRAMES // 2
        shown = np.clip(np.arange(first, first + FRAMES), 0, len(frames) - 1)
        start = round((middle - SECONDS / 2) * RATE)
        padded = np.pad(wave, (max(-start, 0), max(start + round(SECONDS * RATE) - len(wave), 0)))
        start = max(start, 0)
        return {
            "video": frames[shown],  # (9, 96, 96, 3) uint8
            "audio": (padded[start : start + round(SECONDS * RATE)], RATE),
            "label": self.words.index((PLACES[place], q[PLACES[place]])),
        }

    def clip(self, split: str, number: int) -> tuple[np.ndarray, np.ndarray]:
        """All pictures (T, H, W, 3) and the sound (S,) of a clip, noise included.

        Raises:
            MediaError: it does not decode.
        """
        if (split, number) not in self.kept:
            if len(self.kept) == CLIPS:
                del self.kept[next(iter(self.kept))]
            self.kept[split, number] = self._decode(split, number)
        return self.kept[split, number]

    def _decode(self, split: str, number: int) -> tuple[np.ndarray, np.ndarray]:
        q = self.tables[split].iloc[number]
        times = [(i + 0.5) / FPS for i in range(int(q.n_frames))]
        frames, _ = decode_frames(q.video, times, f"video {q.id}")
        wave = decode_track(q.video, RATE, f"sound of {q.id}")
        if wave is None:
            wave = np.zeros(int(q.n_samples), np.float32)
        if self._chosen.snr_db is not None:
            voice = wave[round(q.word_start[0] * RATE) : round(q.word_end[-1] * RATE)]
            level = np.sqrt(np.mean(voice**2)) * 10 ** (-self._chosen.snr_db / 20)
            noise = np.random.default_rng(crc32(q.id.encode())).standard_normal(len(wave))
            wave = (wave + level * noise).astype(np.float32)
        return np.stack(frames), wave

    def head(self, widths: Mapping[str, int]) -> nn.Module:
        return WordHead(widths, len(self.words), self.options.head)

    def metrics(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Accuracy over all words and by place."""
        right = logits.argmax(-1) == labels
        of = [self.words[label][0] for label in labels.tolist()]
        scores = {"accuracy": 100 * right.double().mean().item()}
        for place in self.places:
            mine = torch.tensor([p == place for p in of])
            scores[place] = 100 * right[mine].double().mean().item()
        return scores

    def show(self, row: Mapping[str, Any], logits: Tensor | None = None) -> dict[str, Any]:
        strip = np.concatenate(list(row["video"]), axis=1)  # (H, 9 W, 3)
        return {
            "parts": [
                part("video", "png", png(strip)),
                part("audio", "wav", wav(_audible(row["audio"][0]), RATE)),
            ],
            "target": None if row["label"] is None else self.words[row["label"]][1],
            "prediction": None if logits is None else self.words[int(logits.argmax())][1],
        }

    @property
    def _chosen(self) -> GridOptions:
        assert isinstance(self.options, GridOptions)
        return self.options


class WordHead(nn.Module):
    """Logits (B, classes) from pictures in order and sound in order; a missing stream counts as zeros.

    Args:
        widths: of "video", states (B, T, N, D), and "audio", (B, N, D).
        classes: size of the vocabulary.
        kind: "linear", or "mlp" with one hidden layer of 256.
    """

    pieces = 5  # of sound: a tenth of a second each

    def __init__(self, widths: Mapping[str, int], classes: int, kind: str = "linear"):
        super().__init__()
        self.sizes = {"video": FRAMES * widths["video"], "audio": self.pieces * widths["audio"]}
        total = sum(self.sizes.values())
        self.answer: nn.Module = nn.Linear(total, classes)
        if kind == "mlp":
            self.answer = nn.Sequential(nn.Linear(total, 256), nn.GELU(), nn.Linear(256, classes))

    def forward(self, states: Mapping[str, Tensor], masks: Mapping[str, Tensor | None]) -> Tensor:
        like = next(iter(states.values()))
        known = {m: like.new_zeros(len(like), size) for m, size in self.sizes.items()}
        if "video" in states:
            known["video"] = summary(states["video"], masks.get("video")).flatten(1)
        if "audio" in states:
            heard = F.adaptive_avg_pool1d(states["audio"].transpose(1, 2), self.pieces).transpose(1, 2)
            heard = F.layer_norm(heard, heard.shape[-1:])  # (B, pieces, D)
            mask = masks.get("audio")
            if mask is not None:
                heard = heard * mask.any(1)[:, None, None]
            known["audio"] = heard.flatten(1)
        return self.answer(torch.cat(list(known.values()), -1))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy: logits (B, classes), labels (B,)."""
        return F.cross_entropy(logits.float(), labels)


def _audible(wave: np.ndarray) -> np.ndarray:
    """At most of full scale, as a noisy voice is not."""
    return wave / max(1.0, float(np.abs(wave).max()))

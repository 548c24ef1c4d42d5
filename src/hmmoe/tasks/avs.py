"""Audio-visual segmentation on AVSBench-object, S4 and MS3 (Zhou et al., ECCV 2022): the pixels that sound.

Scores of one video of T frames, from logits and 0/1 masks (T, H, W); P = sigmoid(logits), G = mask:

    MJ   per frame |[P > .5] & G| / (|[P > .5] | G| + 1e-7); a frame whose G is empty scores the share of its
         pixels that are not predicted; mean over frames
    MF   F(t) = 1.3 · precision · recall / (0.3 · precision + recall) of [P >= t], 0 where it is 0 / 0, at the
         255 thresholds linspace(0, 1 - 1e-10, 255); frames whose G is empty are left out; mean of the curves
         over the frames, then the maximum over t (per video, not per data set); 0 when every G is empty

A data set scores the mean over its videos; papers print it times 100.

As a task: five pictures of 5 s and the second of sound that each is taken from to five masks. Of a training
clip of S4 only the first frame is annotated; MS3 adds AVSBench's matching loss of what is masked and heard.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from hmmoe.data.media import png, wav
from hmmoe.data.sets.avs import SECONDS, AVSSet, MS3Set, Row, S4Set
from hmmoe.data.sets.avs import SPLITS as FOLDERS
from hmmoe.options import about
from hmmoe.tasks.avs_head import MaskHead
from hmmoe.tasks.base import Task, part
from hmmoe.tasks.seconds import ClipsOptions, cut, media_of, refuse_silence

THRESHOLDS = 255
BETA2 = 0.3  # weight of recall against precision


def mask_scores(logits: Tensor, masks: Tensor) -> dict[str, float]:
    """MJ and MF of one video, in single precision as the benchmark computes them.

    Args:
        logits: (T, H, W), before the sigmoid, any float type. NaN counts as not predicted.
        masks: (T, H, W), 0/1 or bool; T is what is scored (5 for a clip of AVSBench).

    Returns:
        `{"mj", "mf"}`, each in 0..1.

    Raises:
        ValueError: the shapes differ or are not (T, H, W), or masks holds anything but 0 and 1.
    """
    if logits.ndim != 3 or logits.shape != masks.shape or not logits.numel():
        raise ValueError(
            f"logits {tuple(logits.shape)} and masks {tuple(masks.shape)} must have one shape (T, H, W), "
            "resize the logits to the size of the masks"
        )
    if not ((masks == 0) | (masks == 1)).all():
        raise ValueError("masks holds other values than 0 and 1, read a picture of 0 and 255 as picture > 0")
    probability = logits.detach().float().sigmoid().flatten(1)  # (T, H·W)
    true = masks.to(logits.device).bool().flatten(1)  # (T, H·W)
    return {"mj": _jaccard(probability, true), "mf": _f_measure(probability, true)}


def _jaccard(probability: Tensor, true: Tensor) -> float:
    pred = probability > 0.5
    empty = ~true.any(1)  # (T,)
    hit = torch.where(empty, (~pred).sum(1), (pred & true).sum(1))
    union = torch.where(empty, true.shape[1], (pred | true).sum(1))
    return (hit / (union + 1e-7)).mean().item()


def _f_measure(probability: Tensor, true: Tensor) -> float:
    filled = true.any(1)
    if not filled.any():
        return 0.0
    probability, true = probability[filled], true[filled]
    thresholds = torch.linspace(0, 1 - 1e-10, THRESHOLDS, device=probability.device)
    # A pixel passes the thresholds 0..k-1, so one histogram of k replaces 255 comparisons of the picture.
    passed = torch.bucketize(probability, thresholds, right=True)  # (T, H·W), 0..255
    passed = passed.masked_fill(probability.isnan(), 0)
    tp = _passing(passed, true)  # (T, 255)
    predicted = _passing(passed, torch.ones_like(true))
    precision = tp / (predicted + 1e-20)
    recall = tp / true.sum(1, keepdim=True)
    f = (1 + BETA2) * precision * recall / (BETA2 * precision + recall)
    return f.nan_to_num(0.0).mean(0).max().item()


def _passing(passed: Tensor, counted: Tensor) -> Tensor:
    """How many of the counted pixels of each frame pass each threshold: (T, 255)."""
    histogram = torch.zeros(len(passed), THRESHOLDS + 1, device=passed.device)
    histogram.scatter_add_(1, passed, counted.float())
    at_least = histogram.flip(1).cumsum(1).flip(1)  # pixels that pass k thresholds or more
    return at_least[:, 1:]


@dataclass
class AVSOptions(ClipsOptions):
    size: int = field(default=224, metadata=about("pixels a side of the masks that are scored", least=8))
    head: str = field(
        default="tpavi",
        metadata=about(
            "decoder guided by sound at every scale, or a weight vector per scale",
            choices=("tpavi", "linear"),
        ),
    )
    channels: int = field(default=256, metadata=about("width of the decoder", least=8))
    matching: float = field(default=0.0, metadata=about("weight of the matching loss", least=0))


@dataclass
class MS3Options(AVSOptions):
    matching: float = field(default=0.5, metadata=about("weight of the matching loss", least=0))


class AVS(Task):
    """Five pictures and seconds of sound to masks; the label is int8 (5, size, size), -1 where unknown."""

    streams: ClassVar = {"video": "image", "audio": "audio"}
    folded = ("video", "audio")
    levels: ClassVar = {"video": 4}
    metric = "mj"
    data: ClassVar[AVSSet]

    @cached_property
    def rows(self) -> dict[str, list[Row]]:
        """Split -> its rows, in the table's order."""
        found: dict[str, list[Row]] = {split: [] for split in FOLDERS.values()}
        for row in self.data.rows(self.folder()):
            found[FOLDERS[row.split]].append(row)
        return found

    def size(self, split: str) -> int:
        return len(self.rows[split])

    def read(self, split: str, row: int) -> dict[str, Any]:
        root, entry = self.folder(), self.rows[split][row]
        clip = self.data.clip(entry)
        frames = self.data.read_frames(root, clip, SECONDS)
        self.data.check_size(root, entry, frames.shape[1:3])
        wave, rate = self.data.read_sound(root, clip, SECONDS)
        refuse_silence(self, clip, wave)
        return {
            "video": frames,  # (5, H, W, 3) uint8
            "audio": cut(wave, rate, SECONDS),
            "label": self.data.read_masks(root, entry, self.options.size),
        }

    def head(self, widths: Mapping[str, int]) -> nn.Module:
        o: Any = self.options
        return MaskHead(widths, o.size, o.head, o.channels, o.matching)

    def metrics(self, logits: Mapping[str, Tensor], labels: Tensor) -> dict[str, float]:
        scores = [self._scores(found, true) for found, true in zip(logits["masks"], labels, strict=True)]
        return {key: 100 * sum(s[key] for s in scores) / len(scores) for key in ("mj", "mf")}

    def result(self, split: str, rows: Sequence[int], logits: Mapping[str, Tensor]) -> dict[str, str | bytes]:
        """Pictures of 0 and 255 as AVSBench's code saves them: `<category>/<name>/<name>_0.png` to `_4`."""
        files: dict[str, str | bytes] = {}
        for number, masks in zip(rows, logits["masks"], strict=True):
            row = self.rows[split][number]
            folder = f"{row.category}/{row.name}" if row.category else row.name
            for second, mask in enumerate(masks):
                picture = 255 * (mask > 0).cpu().numpy().astype(np.uint8)
                files[f"{folder}/{row.name}_{second}.png"] = png(picture)
        return files

    def from_files(self, **inputs: str) -> dict[str, Any]:
        """`video` is a video file of 5 s or a folder of five pictures, `audio` a sound file."""
        row = super().from_files(**{k: v for k, v in inputs.items() if k not in self.streams})
        return row | media_of(inputs, SECONDS)

    def show(self, row: Mapping[str, Any], logits: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """The frames, below them with the true mask laid over in green, below with the predicted one."""
        side = self.options.size
        frames = [_resized(frame, side) for frame in row["video"]]
        strips, target, prediction = [frames], None, None
        if row["label"] is not None:
            true = torch.as_tensor(row["label"])
            strips.append([_over(f, m == 1) for f, m in zip(frames, true.numpy(), strict=True)])
            target = f"{_share(true[true >= 0] == 1)} of the pixels"
        if logits is not None:
            found = logits["masks"].detach().cpu()
            strips.append([_over(f, m > 0) for f, m in zip(frames, found.numpy(), strict=True)])
            prediction = f"{_share(found > 0)} of the pixels"
            if row["label"] is not None:
                scores = self._scores(found, true)
                prediction += f", MJ {100 * scores['mj']:.1f}, MF {100 * scores['mf']:.1f}"
        picture = np.concatenate([np.concatenate(strip, axis=1) for strip in strips])
        wave, rate = np.concatenate([second for second, _ in row["audio"]]), row["audio"][0][1]
        return {
            "parts": [part("video", "png", png(picture)), part("audio", "wav", wav(wave, rate))],
            "target": target,
            "prediction": prediction,
        }

    @staticmethod
    def _scores(found: Tensor, true: Tensor) -> dict[str, float]:
        """Over the annotated frames."""
        known = (true >= 0).flatten(1).all(1)
        return mask_scores(found[known], true[known])


class S4(AVS):
    """One sound source, 23 categories."""

    name = "avs_s4"
    options_type = AVSOptions
    data: ClassVar = S4Set()


class MS3(AVS):
    """Several sound sources, of which those that sound are masked."""

    name = "avs_ms3"
    options_type = MS3Options
    data: ClassVar = MS3Set()


def _resized(frame: np.ndarray, side: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(frame).resize((side, side)))


def _over(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The frame with the masked pixels half green."""
    green = np.asarray([0, 255, 0], np.uint8)
    return np.where(mask[..., None], frame // 2 + green // 2, frame)


def _share(mask: Tensor) -> str:
    return f"{100 * mask.float().mean().item():.1f} %"

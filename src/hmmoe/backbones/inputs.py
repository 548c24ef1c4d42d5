"""From raw items to a tower's tensors: images, sound and text, each to a fixed shape."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hmmoe.backbones.resample import resample


def rgb(item: Any) -> Any:
    """A PIL image in RGB from a PIL image or a uint8 array (H, W, 3) or (H, W).

    Raises:
        ValueError: neither.
    """
    from PIL import Image

    if isinstance(item, np.ndarray):
        if item.dtype != np.uint8 or item.ndim not in (2, 3) or (item.ndim == 3 and item.shape[2] != 3):
            raise ValueError(f"an image must be uint8 (H, W, 3) or (H, W), got {item.dtype} {item.shape}")
        item = Image.fromarray(item)
    if not isinstance(item, Image.Image):
        raise ValueError(f"an image must be a PIL image or a uint8 array, got {type(item).__name__}")
    return item.convert("RGB")


@dataclass
class ImageInputs:
    """Resized to a square (bicubic, proportions not kept), normalised: `pixel_values` (B, 3, size, size)."""

    size: int
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # ImageNet, for pixels in [0, 1]
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __call__(self, items: list[Any]) -> dict[str, Tensor]:
        from PIL import Image

        images = [rgb(item) for item in items]
        side = (self.size, self.size)
        images = [i if i.size == side else i.resize(side, Image.Resampling.BICUBIC) for i in images]
        pixels = torch.from_numpy(np.stack([np.asarray(i) for i in images]))  # (B, H, W, 3) uint8
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return {"pixel_values": ((pixels / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()}


@dataclass
class ProcessorImages:
    """A checkpoint's own image processor; `video` items are lists of frames."""

    processor: Any
    video: bool = False

    def __call__(self, items: list[Any]) -> dict[str, Tensor]:
        images = [[rgb(f) for f in item] if self.video else rgb(item) for item in items]
        out = self.processor(images, return_tensors="pt")
        return {k: v for k, v in out.items() if isinstance(v, Tensor)}


@dataclass
class AudioInputs:
    """Mono sound, resampled and cut or padded with silence to `seconds`, through the checkpoint's
    extractor."""

    extractor: Any
    seconds: float | None = None  # None: the extractor's own fixed length

    def __call__(self, items: list[Any]) -> dict[str, Tensor]:
        rate = self.extractor.sampling_rate
        waves = [resample(np.asarray(wave, np.float32), have, rate) for wave, have in items]
        fixed: dict[str, Any] = {}
        if self.seconds is not None:
            samples = round(self.seconds * rate)
            waves = [np.pad(w[:samples], (0, max(samples - len(w), 0))) for w in waves]
            if hasattr(self.extractor, "chunk_length"):  # Whisper would pad to 30 s
                fixed = {"padding": "max_length", "max_length": samples, "truncation": True}
        out = self.extractor(waves, sampling_rate=rate, return_tensors="pt", **fixed)
        return {k: v.float() if v.is_floating_point() else v for k, v in out.items() if isinstance(v, Tensor)}


@dataclass
class TextInputs:
    """Tokens padded or cut to `max_length`: `input_ids` (B, max_length) and what else the tokenizer gives."""

    tokenizer: Any
    max_length: int

    def __call__(self, items: list[str]) -> dict[str, Tensor]:
        out = self.tokenizer(
            list(items),
            padding="max_length",
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        return dict(out)


def blank(modality: str) -> Any:
    """An item of that modality with nothing in it, to try a tower on."""
    image = np.full((64, 64, 3), 127, np.uint8)
    return {
        "image": image,
        "video": [image] * 16,
        "audio": (np.zeros(16000, np.float32), 16000),
        "text": "nothing",
    }[modality]


def whole(name: str, value: Any, *, low: int = 1) -> int:
    """`value` as a whole number of at least `low`.

    Raises:
        ValueError: it is not one.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or value != int(value)
    ):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if value < low:
        raise ValueError(f"{name} must be at least {low}, got {value!r}")
    return int(value)

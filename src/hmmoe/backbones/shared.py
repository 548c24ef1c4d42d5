"""One vision tower for pictures and sound, as in LAVISH (Lin et al., CVPR 2023): sound as a mel picture.

wave ─► log-mel of `size` bands, one frame every `shift` ms, `size` frames ─► three equal channels ─► tower
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hmmoe.backbones.inputs import whole
from hmmoe.backbones.resample import resample
from hmmoe.backbones.tower import Tower
from hmmoe.errors import unknown

SHARED = "shared"  # the name of such a tower in a recipe
RATE, WINDOW, FFT = 16000, 400, 512
FLOOR = 1.192092955078125e-07  # of mel energies, as in Kaldi
MEAN, STD = -4.984796, 3.707978  # of AVE's log-mel values, as LAVISH takes them


def shared_tower(
    towers: Mapping[str, Tower],
    of: str,
    *,
    size: int | None = None,
    shift: float = 5.2,
    mean: float = MEAN,
    std: float = STD,
) -> Tower:
    """The vision tower of stream `of` for sound as well; adapters and weights are there once.

    Args:
        towers: the towers with weights of their own.
        of: the stream whose tower it is.
        size: bands and frames of the mel picture; None for the pictures' own size.
        shift: milliseconds from one frame to the next: 5.2 for a second in 192 frames.
        mean, std: of the log-mel values; they become (value - mean) / (2 std).

    Raises:
        ValueError: no such stream, or its tower does not read pictures of a known size.
    """
    if of not in towers:
        raise ValueError(unknown("stream in of, whose tower is shared,", of, towers))
    tower = towers[of]
    own = getattr(getattr(tower.module, "config", None), "image_size", None)
    own = own[0] if isinstance(own, (list, tuple)) else own
    if tower.modality != "image" or (size is None and own is None):
        raise ValueError(
            f"the tower of stream {of!r} reads {tower.modality} and cannot be shared; give a vision tower, "
            "and size where it takes pictures of any"
        )
    pictures = MelPictures(whole("size", own if size is None else size), shift, mean, std)
    return Tower(tower.module, pictures, "audio", tower.width)


@dataclass
class MelPictures:
    """Sound to `pixel_values` (B, 3, size, size): Kaldi's log-mel filter banks, cut or padded in time.

    Bands are rows and frames columns; padding has the mean value, zero.
    """

    size: int
    shift: float = 5.2
    mean: float = MEAN
    std: float = STD

    @cached_property
    def filters(self) -> np.ndarray:
        from transformers.audio_utils import mel_filter_bank

        with (
            warnings.catch_warnings()
        ):  # some of so many bands lie between two frequencies, in LAVISH as well
            warnings.simplefilter("ignore")
            return mel_filter_bank(
                num_frequency_bins=FFT // 2 + 1,
                num_mel_filters=self.size,
                min_frequency=20,
                max_frequency=RATE // 2,
                sampling_rate=RATE,
                norm=None,
                mel_scale="kaldi",
                triangularize_in_mel_space=True,
            )

    def __call__(self, items: list[Any]) -> dict[str, Tensor]:
        pictures = torch.stack([self.picture(wave, rate) for wave, rate in items])  # (B, size, size)
        return {"pixel_values": pictures[:, None].repeat(1, 3, 1, 1)}

    def picture(self, wave: np.ndarray, rate: int) -> Tensor:
        """(size, size), bands by frames."""
        from transformers.audio_utils import spectrogram, window_function

        wave = resample(np.asarray(wave, np.float32), rate, RATE)
        wave = np.pad(wave, (0, max(WINDOW - len(wave), 0)))
        bands = spectrogram(
            wave - wave.mean(),
            window_function(WINDOW, "hann", periodic=False),
            frame_length=WINDOW,
            hop_length=round(self.shift * RATE / 1000),
            fft_length=FFT,
            power=2.0,
            center=False,
            preemphasis=0.97,
            mel_filters=self.filters,
            log_mel="log",
            mel_floor=FLOOR,
            remove_dc_offset=True,
        )  # (size, frames)
        known = torch.from_numpy(bands[:, : self.size]).float()
        picture = torch.zeros(self.size, self.size)
        picture[:, : known.shape[1]] = (known - self.mean) / (2 * self.std)
        return picture

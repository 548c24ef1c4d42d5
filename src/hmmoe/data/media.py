"""Decoding of pictures, sound and video from files or bytes, with errors that name the file."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Source = str | Path | bytes


class MediaError(ValueError):
    """A picture or sound that is missing or cannot be decoded; the message names it."""


def decode_image(source: Source, name: str | None = None) -> np.ndarray:
    """A picture file or its bytes as uint8 (H, W, 3).

    Args:
        source: a path, or the bytes of the file.
        name: what to call it in an error; the path where there is one.

    Raises:
        MediaError: missing, empty, truncated or no picture.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise MediaError(_say("image", source, name, error)) from error


def decode_audio(source: Source, name: str | None = None) -> tuple[np.ndarray, int]:
    """A sound file or its bytes as (float32 mono waveform (S,), samples per second); channels are averaged.

    Args:
        source: a path, or the bytes of the file (whatever libsndfile reads: wav, flac, ogg, mp3).
        name: what to call it in an error; the path where there is one.

    Raises:
        MediaError: missing, empty, truncated or no sound.
    """
    import soundfile

    try:
        wave, rate = soundfile.read(
            io.BytesIO(source) if isinstance(source, bytes) else source, dtype="float32"
        )
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise MediaError(_say("audio", source, name, error)) from error
    if wave.ndim == 2:
        wave = wave.mean(axis=1, dtype=np.float32)
    if not len(wave):
        raise MediaError(_say("audio", source, name, "no samples"))
    return wave, rate


def decode_video(source: Source, seconds: int, name: str | None = None) -> np.ndarray:
    """A video file or its bytes as one frame a second: uint8 (seconds, H, W, 3).

    The frame is the one shown in the middle of the second; the last one stands for seconds after the end.

    Args:
        source: a path, or the bytes of the file (whatever FFmpeg reads).
        seconds: how many frames.
        name: what to call it in an error; the path where there is one.

    Raises:
        MediaError: missing, empty, truncated or no video.
    """
    import av

    shown: list[Any] = []
    last = None
    try:
        with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source), "r") as file:
            for frame in file.decode(video=0):
                while last is not None and len(shown) < seconds and frame.time > len(shown) + 0.5:
                    shown.append(last)
                last = frame
                if len(shown) == seconds:
                    break
    except (OSError, ValueError, IndexError, av.FFmpegError) as error:
        raise MediaError(_say("video", source, name, error)) from error
    if last is None:
        raise MediaError(_say("video", source, name, "no frames"))
    shown += [last] * (seconds - len(shown))
    return np.stack([frame.to_ndarray(format="rgb24") for frame in shown])


class Clips:
    """Sound by key, each decoded when first read and then kept: rows that share a clip decode it once.

    Args:
        files: key -> bytes of a sound file.
        where: what to call their source in an error.
    """

    def __init__(self, files: Mapping[str, bytes], where: str):
        self.files, self.where = files, where
        self.waves: dict[str, np.ndarray] = {}

    def __getitem__(self, key: str) -> np.ndarray:
        """The waveform (S,) at its own rate.

        Raises:
            MediaError: no such clip, or it does not decode.
        """
        if key not in self.waves:
            if key not in self.files:
                raise MediaError(f"audio {key} is not in {self.where}")
            self.waves[key] = decode_audio(self.files[key], f"{key} in {self.where}")[0]
        return self.waves[key]


def _say(kind: str, source: Source, name: str | None, why: object) -> str:
    where = name or ("bytes without a name" if isinstance(source, bytes) else str(source))
    if not isinstance(source, bytes) and not Path(source).exists():
        return f"{kind} {where} does not exist"
    return f"{kind} {where} cannot be decoded: {str(why).replace(chr(10), ' ') or type(why).__name__}"


def png(image: np.ndarray) -> bytes:
    """uint8 (H, W, 3) or (H, W) as the bytes of a PNG file."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def wav(wave: np.ndarray, rate: int) -> bytes:
    """A waveform (S,) as the bytes of a 16-bit WAV file."""
    import soundfile

    out = io.BytesIO()
    soundfile.write(out, wave, rate, format="WAV", subtype="PCM_16")
    return out.getvalue()

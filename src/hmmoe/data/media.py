"""Decoding of pictures, sound and video from files or bytes, with errors that name the file."""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Source = str | Path | bytes
VIDEO_RATE = 48000  # the usual one of sound in videos


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
        with soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
            wave, rate, told = file.read(dtype="float32"), file.samplerate, _told_frames(file)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise MediaError(_say("audio", source, name, error)) from error
    if wave.ndim == 2:
        wave = wave.mean(axis=1, dtype=np.float32)
    if not len(wave):
        raise MediaError(_say("audio", source, name, "no samples"))
    if len(wave) < 0.99 * told:
        ends = f"truncated, it ends at {len(wave) / rate:.1f} s of {told / rate:.1f} s"
        raise MediaError(_say("audio", source, name, ends))
    return wave, rate


def _told_frames(file: Any) -> float:
    """The samples that a sound file says it holds. A WAV file's own word is only in libsndfile's notes."""
    note = re.search(r"data *: (\d+) \(should be (\d+)\)", file.extra_info)
    if note is None:
        return file.frames
    said, there = int(note[1]), int(note[2])
    if said >= 2**31 - 2**16:  # written to a pipe, by a program that did not know the length
        return file.frames
    return file.frames * said / max(there, 1)


def decode_video(source: Source, seconds: int, name: str | None = None) -> np.ndarray:
    """A video file or its bytes as one frame a second, from its middle: uint8 (seconds, H, W, 3).

    See `decode_frames`.
    """
    return np.stack(decode_frames(source, [second + 0.5 for second in range(seconds)], name)[0])


def decode_frames(
    source: Source, times: Sequence[float], name: str | None = None
) -> tuple[list[np.ndarray], float]:
    """The frames that a video file or its bytes shows at `times`, and when the last frame read ends.

    The last frame stands for times after the end.

    Args:
        source: a path, or the bytes of the file (whatever FFmpeg reads).
        times: seconds from the start, in order.
        name: what to call it in an error; the path where there is one.

    Returns:
        A uint8 (H, W, 3) per time; and a second, which is the video's end where `times` go beyond it.

    Raises:
        MediaError: missing, empty, truncated or no video.
    """
    import av
    from av.video.reformatter import VideoReformatter

    shown: list[Any] = []
    last, ends, told = None, 0.0, 0.0
    try:
        with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source), "r") as file:
            if not file.streams.video:
                raise ValueError("it has no pictures")
            stream = file.streams.video[0]
            stream.codec_context.thread_count = 1  # many files are decoded at a time, one per process
            if stream.duration is not None and stream.time_base is not None:
                told = float(stream.duration * stream.time_base)
            for frame in file.decode(stream):
                while last is not None and len(shown) < len(times) and frame.time > times[len(shown)]:
                    shown.append(last)
                last = frame
                ends = frame.time + float((frame.duration or 0) * (frame.time_base or 0))
                if len(shown) == len(times):
                    break
    except (OSError, ValueError, IndexError, av.FFmpegError) as error:
        raise MediaError(_say("video", source, name, error)) from error
    if last is None:
        raise MediaError(_say("video", source, name, "no frames"))
    if len(shown) < len(times) and ends + 1 < told:
        raise MediaError(_say("video", source, name, f"truncated, it ends at {ends:.1f} s of {told:.1f} s"))
    shown += [last] * (len(times) - len(shown))
    to_rgb = VideoReformatter()  # one for all frames: a frame's own would be set up anew for each
    return [to_rgb.reformat(frame, format="rgb24").to_ndarray() for frame in shown], ends


def decode_track(source: Source, rate: int, name: str | None = None) -> np.ndarray | None:
    """The sound of a video file or its bytes: float32 mono waveform (S,) at `rate`; None where it has none.

    Sound that starts after the pictures is preceded by silence.

    Raises:
        MediaError: missing, empty or truncated.
    """
    import av

    parts: list[np.ndarray] = []
    try:
        with av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source), "r") as file:
            if not file.streams.audio:
                return None
            resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
            for frame in file.decode(file.streams.audio[0]):
                if not parts:
                    parts.append(np.zeros((1, max(0, round((frame.time or 0) * rate))), np.float32))
                parts += [piece.to_ndarray() for piece in resampler.resample(frame)]
            if parts:
                parts += [piece.to_ndarray() for piece in resampler.resample(None)]
    except (OSError, ValueError, IndexError, av.FFmpegError) as error:
        raise MediaError(_say("audio", source, name, error)) from error
    return np.concatenate(parts, 1)[0] if parts else None


def sound_of(file: str | Path) -> tuple[np.ndarray, int]:
    """The sound of a user's own file, be it a sound file or a video: as `decode_audio`, a video's at 48 kHz.

    Raises:
        MediaError: neither, or a video without sound.
    """
    try:
        return decode_audio(file)
    except MediaError:
        try:
            track = decode_track(file, VIDEO_RATE)
        except MediaError:
            track = None
        if track is None:
            raise
        return track, VIDEO_RATE


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

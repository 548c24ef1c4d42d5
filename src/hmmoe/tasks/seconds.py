"""What tasks on ten-second videos share: for each second a picture and its sound, read and shown alike."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hmmoe.data.media import MediaError, decode_image, decode_video, png, sound_of, wav
from hmmoe.data.prepare import QUIET
from hmmoe.data.sets import Clip, DataSet
from hmmoe.options import about
from hmmoe.tasks.base import Options, Task, part

SECONDS = 10


class SecondsTask(Task):
    """Rows of ten pictures and ten seconds of sound. A subclass puts labels and answers into words."""

    streams: ClassVar[Mapping[str, str]] = {"video": "image", "audio": "audio"}
    folded = ("video", "audio")

    def words(self, label: Any) -> str:
        """A row's label for a person."""
        raise NotImplementedError

    def answer(self, logits: Any) -> Any:
        """The label that the logits of one row, without the batch axis, come to."""
        raise NotImplementedError

    def show(self, row: Mapping[str, Any], logits: Any = None) -> dict[str, Any]:
        strip = np.concatenate(list(row["video"]), axis=1)  # (H, 10 W, 3)
        wave, rate = np.concatenate([second for second, _ in row["audio"]]), row["audio"][0][1]
        return {
            "parts": [part("video", "png", png(strip)), part("audio", "wav", wav(wave, rate))],
            "target": None if row["label"] is None else self.words(row["label"]),
            "prediction": None if logits is None else self.words(self.answer(logits)),
        }

    def from_files(self, **inputs: str) -> dict[str, Any]:
        """`video` is a video file or a folder of pictures, one a second in order of name; `audio` a sound
        file or a video with sound.

        Both are cut to ten seconds; shorter ones end in their last picture and in silence.
        """
        row = super().from_files(**{k: v for k, v in inputs.items() if k not in self.streams})
        return row | media_of(inputs)


@dataclass
class ClipsOptions(Options):
    silent: str = field(
        default="keep",
        metadata=about(
            "clips whose sound is all silence: use them, or treat them as broken", choices=("keep", "refuse")
        ),
    )


class ClipsTask(SecondsTask):
    """Rows that are clips of an official data set, prepared or as the videos come."""

    data: ClassVar[DataSet]
    options_type: ClassVar[type[Options]] = ClipsOptions

    def media(self, clip: Clip) -> dict[str, Any]:
        """`{"video": (10, H, W, 3) uint8, "audio": ten (waveform of a second, rate)}`.

        Raises:
            MediaError: missing, broken or without sound; or silent, where that is refused.
        """
        root = self.folder()
        frames = self.data.read_frames(root, clip, SECONDS)
        wave, rate = self.data.read_sound(root, clip, SECONDS)
        refuse_silence(self, clip, wave)
        return {"video": frames, "audio": cut(wave, rate)}


def refuse_silence(task: Any, clip: Clip, wave: np.ndarray) -> None:
    """Look at a clip's sound, for a task whose options are `ClipsOptions`.

    Raises:
        MediaError: it is silent and the options refuse that.
    """
    if task.options.silent == "refuse" and np.abs(wave).max() < QUIET:
        raise MediaError(f"the sound of {task.data.name} clip {clip.name} is silent")


def cut(wave: np.ndarray, rate: int, seconds: int = SECONDS) -> list[tuple[np.ndarray, int]]:
    """The first seconds, one by one."""
    return [(second, rate) for second in wave[: seconds * rate].reshape(seconds, rate)]


def media_of(inputs: Mapping[str, str], seconds: int = SECONDS) -> dict[str, Any]:
    """Pictures and seconds of sound from a user's files, of those of `video` and `audio` that are given.

    See `SecondsTask.from_files`.

    Raises:
        MediaError: missing, or it does not decode.
    """
    row: dict[str, Any] = {}
    if "video" in inputs:
        row["video"] = _frames(Path(inputs["video"]), seconds)
    if "audio" in inputs:
        wave, rate = sound_of(inputs["audio"])
        row["audio"] = cut(np.pad(wave, (0, max(seconds * rate - len(wave), 0))), rate, seconds)
    return row


def runs(labels: Any) -> list[tuple[int, int, int]]:
    """(label, first second, second after the last) of each run of equal labels.

    >>> runs([3, 3, 1])
    [(3, 0, 2), (1, 2, 3)]
    """
    found: list[tuple[int, int, int]] = []
    for t, label in enumerate(labels):
        if found and found[-1][0] == label:
            found[-1] = (found[-1][0], found[-1][1], t + 1)
        else:
            found.append((int(label), t, t + 1))
    return found


def span(start: int, stop: int) -> str:
    """Seconds in words: "0-5", or "3" where it is one."""
    return f"{start}-{stop - 1}" if stop - start > 1 else f"{start}"


def _frames(path: Path, seconds: int) -> np.ndarray:
    """(seconds, H, W, 3) uint8, all of the first picture's size."""
    if not path.is_dir():
        return decode_video(path, seconds)
    files = sorted(f for f in path.iterdir() if f.is_file())[:seconds]
    if not files:
        raise MediaError(f"the folder {path} holds no pictures")
    from PIL import Image

    images = [Image.fromarray(decode_image(f)) for f in files]
    same = [np.asarray(i.resize(images[0].size)) for i in images]
    return np.stack(same + same[-1:] * (seconds - len(same)))

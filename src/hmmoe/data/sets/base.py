"""What a data set of videos is: annotation files, a list of clips, and where their pictures and sound lie."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hmmoe.data.media import MediaError, decode_audio, decode_frames, decode_image, decode_track

RATE = 16000  # of the sound that `hmmoe data prepare` writes
WAVE_RATE = 32000  # of .npy waveforms, as DG-SCT and AVMoE store them
SLACK = 1.0  # seconds by which a video may end before what the annotations say of it


@dataclass(frozen=True)
class Clip:
    """One video that annotations speak of.

    Attributes:
        name: what reports call it; no two clips of a data set share it.
        place: fills the braces of the data set's patterns, e.g. `{"id": "RUhOCu3LNXM"}`.
        ends: seconds up to which annotations speak of it: a video that ends earlier contradicts them.
        rows: split -> annotation rows that need it.
    """

    name: str
    place: Mapping[str, str]
    ends: float = 0.0
    rows: Mapping[str, int] = field(default_factory=dict)


class DataSet:
    """One official data set. A subclass fills the class variables and lists its clips.

    Patterns are paths below the data set's folder with the braces of `Clip.place`. Each lists the places in
    which public code bases keep such files; the first one is where `hmmoe data prepare` writes.
    """

    name: ClassVar[str]
    title: ClassVar[str]  # for reports
    frames: ClassVar[Sequence[str]]  # a clip's folder of pictures
    picture: ClassVar[str]  # name of a prepared picture, e.g. "{number:04d}.jpg", from 1 on, or with `place`
    audio: ClassVar[Sequence[str]]  # a clip's sound: .wav, or .npy at 32 kHz
    video: ClassVar[Sequence[str]]  # a clip's official video
    times: ClassVar[Sequence[float]]  # seconds at which prepared pictures are taken
    seconds: ClassVar[float]  # of prepared sound; longer videos are cut
    official: ClassVar[Mapping[str, int]]  # split -> annotation rows as published
    whole: ClassVar[bool] = False  # videos of any length: nothing is stored for times after their end
    needs_sound: ClassVar[bool] = True  # a video without sound is of no use

    def annotations(self, root: Path) -> list[Path]:
        """The annotation files in `root`, which prepare copies to the same places.

        Raises:
            FileNotFoundError: one is missing; says which and where it was looked for.
        """
        raise NotImplementedError

    def clips(self, root: Path) -> list[Clip]:
        """All clips of the annotations in `root`, each once, in their order.

        Raises:
            FileNotFoundError: an annotation file is missing.
            ValueError: one cannot be read, or contradicts itself; names file and line.
        """
        raise NotImplementedError

    def resize(self, image: np.ndarray) -> np.ndarray:
        """A frame (H, W, 3) as it is to be stored: at most 256 pixels on the shorter side."""
        height, width = image.shape[:2]
        scale = 256 / min(height, width)
        if scale >= 1:
            return image
        from PIL import Image

        size = (round(width * scale), round(height * scale))
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))

    def find(self, root: Path, patterns: Sequence[str], clip: Clip) -> Path | None:
        """Where the clip's files of that kind are; None where they are in none of the places."""
        places = (root / pattern.format(**clip.place) for pattern in patterns)
        return next((place for place in places if place.exists()), None)

    def pictures(self, root: Path, clip: Clip) -> list[Path]:
        """The clip's stored pictures in order of name; none where there is no folder of them."""
        folder = self.find(root, self.frames, clip)
        return [] if folder is None else listed(folder)

    def read_frames(self, root: Path, clip: Clip, count: int) -> np.ndarray:
        """uint8 (count, H, W, 3): pictures number `linspace(1, n, count)` of the n stored, at whatever
        rate, or of those that would be stored of the video.

        Raises:
            MediaError: there is neither, one does not decode, or the video ends before its annotation.
        """
        files = self.pictures(root, clip)
        if files:
            images = [decode_image(file) for file in _spread(files, count)]
            if len({image.shape for image in images}) > 1:
                raise MediaError(f"the pictures in {files[0].parent} are of different sizes")
            return np.stack(images)
        video = self.find(root, self.video, clip)
        if video is None:
            raise self.absent(root, clip, "video", [*self.frames, *self.video])
        times = _spread(self.times, count)
        frames, ends = decode_frames(video, times)
        if ends <= times[-1] and (why := self.shortage(clip, ends)):
            raise MediaError(f"video {video} contradicts its annotation: {why}")
        return np.stack([self.resize(frame) for frame in frames])

    def read_sound(self, root: Path, clip: Clip, seconds: float | None = None) -> tuple[np.ndarray, int]:
        """Waveform (S,) and rate, of the stored sound or of the video's track.

        Args:
            seconds: cut, or end in silence, to this length; as long as it is if not given.

        Raises:
            MediaError: there is neither, the video has no sound, or it does not decode.
        """
        file = self.find(root, self.audio, clip)
        if file is None:
            video = self.find(root, self.video, clip)
            if video is None:
                raise self.absent(root, clip, "sound", [*self.audio, *self.video])
            track = decode_track(video, RATE)
            if track is None:
                raise MediaError(f"video {video} has no sound")
            wave, rate = track, RATE
        elif file.suffix == ".npy":
            wave, rate = _waveform(file), WAVE_RATE
        else:
            wave, rate = decode_audio(file)
        if seconds is not None:
            samples = round(seconds * rate)
            wave = np.pad(wave[:samples], (0, max(samples - len(wave), 0)))
        return wave, rate

    def check_labels(self, root: Path, clip: Clip) -> None:
        """Read what annotates the clip in files of its own, masks for example. Most data sets have none.

        Raises:
            MediaError: one is missing, does not decode or is not of the pictures' size.
        """

    def shortage(self, clip: Clip, ends: float) -> str:
        """In words, that a video which ends then is shorter than annotations say; empty if it is not."""
        if ends + SLACK >= min(clip.ends, self.seconds):
            return ""
        return f"it ends at {ends:.1f} s, annotations go on to {clip.ends:g} s"

    def absent(self, root: Path, clip: Clip, what: str, patterns: Iterable[str]) -> MediaError:
        """The sentence for a clip of which nothing is there."""
        places = " or ".join(pattern.format(**clip.place) for pattern in patterns)
        return MediaError(f"the {what} of {self.name} clip {clip.name} does not exist: no {places} in {root}")


def find_file(root: Path, what: str, names: Sequence[str], inside: Sequence[str] = ("",)) -> Path:
    """The first of `names` (alternatives of one official file) in the folders `inside` of `root`.

    Raises:
        FileNotFoundError: none is there, or `root` is no folder.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"the folder {root} does not exist")
    for folder in inside:
        for name in names:
            if (root / folder / name).is_file():
                return root / folder / name
    places = ", ".join(str(Path(folder)) for folder in inside)
    raise FileNotFoundError(
        f"the data file {' or '.join(names)}, {what}, does not exist in {root} (looked in {places})"
    )


def gathered(clips: Iterable[Clip]) -> list[Clip]:
    """Clips of the same name made one: the latest end, rows added up."""
    found: dict[str, Clip] = {}
    for clip in clips:
        if (known := found.get(clip.name)) is not None:
            rows = dict(Counter(known.rows) + Counter(clip.rows))
            clip = Clip(clip.name, known.place, max(known.ends, clip.ends), rows)
        found[clip.name] = clip
    return list(found.values())


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """`count` of the items from the first to the last, as all public code bases choose frames."""
    return [items[number - 1] for number in np.linspace(1, len(items), count, dtype=int)]


def _waveform(file: Path) -> Any:
    try:
        wave = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise MediaError(f"audio {file} cannot be decoded: {error}") from error
    if wave.ndim != 1 or not len(wave):
        raise MediaError(f"audio {file} must be a waveform of one axis, it has the shape {wave.shape}")
    return wave.astype(np.float32)


def listed(folder: Path) -> list[Path]:
    """The files of a folder in order of name, without hidden ones."""
    return sorted(f for f in folder.iterdir() if not f.name.startswith("."))

"""What the tasks on MSRVTT and MSVD share: frames of a video, pieces of its sound, and how they are shown."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from hmmoe.data.media import MediaError, png, sound_of, wav
from hmmoe.data.sets.base import find_file
from hmmoe.data.sets.video_text import VideoText, pieces, read_captions
from hmmoe.options import about
from hmmoe.tasks.base import Options, Task, part

VIDEO, AUDIO = "video", "audio"
HELD = 20  # one training item in so many is for validation where the data set has none for it
Captioned = dict[str, list[tuple[str, list[str]]]]  # split -> (item, its captions)


@dataclass
class VideoOptions(Options):
    frames: int = field(default=8, metadata=about("pictures of a video, spread evenly", least=1))
    clips: int = field(default=2, metadata=about("pieces of its sound, spread evenly", least=1))
    clip_seconds: float = field(default=5.0, metadata=about("length of such a piece", above=0))


@dataclass
class CaptionedOptions(VideoOptions):
    select_on: str = field(
        default="train",
        metadata=about(
            "where a protocol has no validation videos: a twentieth of the training videos, or, as in "
            "published work, the test videos",
            choices=("train", "test"),
        ),
    )


class VideoTask(Task):
    """A task on the videos of `data`; its options are `VideoOptions` or more."""

    data: ClassVar[VideoText]

    def from_files(self, **inputs: str) -> dict[str, Any]:
        """`video` is a video file or a folder of pictures in order of name, `audio` a sound file or a video
        with sound, `text` the words themselves.

        Raises:
            ValueError: a stream that the task does not have.
            MediaError: a file that is missing or does not decode.
        """
        row = super().from_files(**{m: value for m, value in inputs.items() if m not in self.folded})
        options = cast(VideoOptions, self.options)
        if VIDEO in inputs:
            row[VIDEO] = self.data.segments(Path(inputs[VIDEO]), options.frames)
        if AUDIO in inputs and AUDIO in self.folded:
            row[AUDIO] = pieces(*sound_of(inputs[AUDIO]), options.clips, options.clip_seconds)
        return row

    def media(self, item: str) -> dict[str, Any]:
        """`{"video": frames, "audio": pieces or None without sound}` of a video, of these what are streams.

        Raises:
            MediaError: the video is not there or does not decode.
        """
        root, options = self.folder(), cast(VideoOptions, self.options)
        found: dict[str, Any] = {VIDEO: self.data.read_segments(root, item, options.frames)}
        if AUDIO in self.streams:
            found[AUDIO] = self.data.read_clips(root, item, options.clips, options.clip_seconds)
        return found

    def part(self, stream: str, data: Any) -> dict[str, Any]:
        """A stream of a row: frames as one strip, pieces of sound as one recording, text as it is."""
        if stream == VIDEO:
            return part(stream, "png", png(np.concatenate(list(data), axis=1)))
        if stream == AUDIO:
            return part(stream, "wav", wav(np.concatenate([piece for piece, _ in data]), data[0][1]))
        return part(stream, "text", data)


def captioned_videos(data: VideoText, root: Path, protocol: str, select_on: str) -> Captioned:
    """The videos of each split with their captions.

    Raises:
        FileNotFoundError: a file is not there.
        MediaError: one cannot be read, or a video has no caption.
    """
    captions = data.captions(root)
    videos = data.videos(root, protocol)
    asked = captions
    if protocol in data.test_captions_in:
        files = data.test_captions_in[protocol]
        asked = read_captions(find_file(root, f"{data.title}'s test captions", files))
    of = {"train": captions, "validation": captions, "test": asked}
    if "validation" not in videos and select_on == "test":
        videos["validation"], of["validation"] = videos["test"], asked
    elif "validation" not in videos:
        held = max(1, len(videos["train"]) // HELD)
        videos["train"], videos["validation"] = videos["train"][:-held], videos["train"][-held:]
    found = {}
    for split, names in videos.items():
        for video in names:
            if video not in of[split]:
                raise MediaError(f"video {video!r} of {data.title}'s {split} split has no caption")
        found[split] = [(video, of[split][video]) for video in names]
    return found

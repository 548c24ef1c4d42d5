"""What the tasks on MSRVTT and MSVD share: frames of a video, pieces of its sound, and how they are shown."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hmmoe.data.media import png, wav
from hmmoe.data.sets.video_text import VideoText
from hmmoe.options import about
from hmmoe.tasks.base import Options, part

VIDEO, AUDIO = "video", "audio"


@dataclass
class VideoOptions(Options):
    frames: int = field(default=8, metadata=about("pictures of a video, spread evenly", least=1))
    clips: int = field(default=2, metadata=about("pieces of its sound, spread evenly", least=1))
    clip_seconds: float = field(default=5.0, metadata=about("length of such a piece", above=0))


def read_media(
    data: VideoText, root: Path, video: str, options: VideoOptions, streams: Mapping[str, str]
) -> dict[str, Any]:
    """`{"video": frames, "audio": pieces or None without sound}`, of these what is in `streams`.

    Raises:
        MediaError: the video is not there or does not decode.
    """
    found: dict[str, Any] = {VIDEO: data.read_segments(root, video, options.frames)}
    if AUDIO in streams:
        found[AUDIO] = data.read_clips(root, video, options.clips, options.clip_seconds)
    return found


def show_media(stream: str, value: Any) -> dict[str, Any]:
    """Frames as one strip, pieces of sound as one recording, text as it is."""
    if stream == VIDEO:
        return part(stream, "png", png(np.concatenate(list(value), axis=1)))
    if stream == AUDIO:
        return part(stream, "wav", wav(np.concatenate([piece for piece, _ in value]), value[0][1]))
    return part(stream, "text", value)

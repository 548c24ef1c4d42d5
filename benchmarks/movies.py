"""Pictures and a sound as an mp4 file, for generated data sets and tests."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def write_movie(
    path: Path,
    seconds: Sequence[np.ndarray],
    sound: np.ndarray | None = None,
    rate: int = 16000,
    fps: int = 2,
    bit_rate: int = 1_000_000,
) -> Path:
    """Show each of the pictures uint8 (H, W, 3) for a second, with the mono waveform (S,) beside it.

    H and W must be even.
    """
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as out:
        video = out.add_stream("mpeg4", rate=fps)
        video.height, video.width = seconds[0].shape[:2]
        video.bit_rate = bit_rate
        audio = None if sound is None else out.add_stream("aac", rate=rate, layout="mono")
        for image in seconds:
            for _ in range(fps):
                out.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(video.encode())
        if audio is not None and sound is not None:
            for start in range(0, len(sound), 1024):
                piece = np.pad(sound[start : start + 1024], (0, max(0, start + 1024 - len(sound))))
                frame = av.AudioFrame.from_ndarray(piece[None], format="fltp", layout="mono")
                frame.sample_rate = rate
                frame.pts = start  # with it the encoder writes down its delay, which players then skip
                out.mux(audio.encode(frame))
            out.mux(audio.encode())
    return path

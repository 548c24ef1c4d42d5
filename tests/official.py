"""Tiny data sets in official layouts: real mp4 files of a few pictures, with sound, and annotation files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hmmoe.data.sets.ave import HEADER

SIDE = 32
RATE = 16000


def tone(seconds: float, pitch: float = 440.0, level: float = 0.3) -> np.ndarray:
    return (level * np.sin(2 * np.pi * pitch * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def movie(path: Path, greys: Sequence[int], sound: np.ndarray | None = None, fps: int = 2) -> Path:
    """An mp4 whose second t is a picture of brightness `greys[t]`; `sound` at 16 kHz."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as out:
        video = out.add_stream("mpeg4", rate=fps)
        video.width = video.height = SIDE
        audio = None if sound is None else out.add_stream("aac", rate=RATE, layout="mono")
        for grey in greys:
            for _ in range(fps):
                image = np.full((SIDE, SIDE, 3), grey, np.uint8)
                out.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(video.encode())
        if audio is not None and sound is not None:
            for start in range(0, len(sound), 1024):
                piece = np.pad(sound[start : start + 1024], (0, max(0, start + 1024 - len(sound))))
                frame = av.AudioFrame.from_ndarray(piece[None], format="fltp", layout="mono")
                frame.sample_rate = RATE
                frame.pts = start  # with it the encoder writes down its delay, which players then skip
                out.mux(audio.encode(frame))
            out.mux(audio.encode())
    return path


AVE_ROWS = [  # category, video, start, stop; two rows are of one video
    ("Church bell", "bell0000001", 0, 10),
    ("Bark", "dog_0000001", 2, 5),
    ("Bark", "dog_0000002", 0, 4),
    ("Church bell", "bell0000002", 6, 10),
    ("Truck", "dog_0000002", 5, 9),
    ("Truck", "truck000001", 3, 6),
]
AVE_SPLITS = {"trainSet.txt": [0, 1, 2], "valSet.txt": [3], "testSet.txt": [4, 5]}


def ave_annotations(folder: Path, rows: Sequence[tuple] = AVE_ROWS, splits: dict | None = None) -> Path:
    """Annotations.txt with its header, and the three split files without one, as the data set comes."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["&".join([c, v, "good", str(a), str(b)]) for c, v, a, b in rows]
    (folder / "Annotations.txt").write_text("\n".join([HEADER, *lines]) + "\n")
    for name, numbers in (splits or AVE_SPLITS).items():
        (folder / name).write_text("\n".join(lines[n] for n in numbers) + "\n")
    return folder


def ave_raw(folder: Path, rows: Sequence[tuple] = AVE_ROWS, splits: dict | None = None) -> Path:
    """AVE as downloaded: AVE/<id>.mp4, bright and sounding where the event is."""
    ave_annotations(folder, rows, splits)
    for number, video in enumerate(dict.fromkeys(row[1] for row in rows)):
        greys, sound = [40] * 10, np.zeros(10 * RATE, np.float32)
        for _, name, start, stop in rows:
            if name == video:
                greys[start:stop] = [200] * (stop - start)
                sound[start * RATE : stop * RATE] = tone(stop - start, 300 + 100 * number)
        movie(folder / "AVE" / f"{video}.mp4", greys, sound)
    return folder

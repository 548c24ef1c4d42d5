"""AVE and LLP as they are downloaded, mp4 files and annotations, from made material.

    python -m benchmarks.generate_events ave FOLDER --pack PACK     the pack ave_mini, its rows as videos
    python -m benchmarks.generate_events llp FOLDER [--train 500 --validation 150 --test 300]

llp   In one or two stretches of a video something is seen and heard at once: a disc or a square, with a low
      or a high hum. What it is takes both: a disc with a low hum is a car and with a high one a motorcycle, a
      square a cat and a dog. One sense alone knows when, and of two classes that it is one.

Prepare them with `hmmoe data prepare`, or point a recipe at them as they are.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.generate import RATE, hum, shape_mask
from benchmarks.movies import write_movie
from hmmoe.data.sets.llp import EVAL_FILES, SPLIT_FILES
from hmmoe.tasks.ave_segments import AVEMini

EVENTS = (("Car", "Motorcycle"), ("Cat", "Dog"))  # [disc, square][low, high]
SHAPES, HUMS = ("disc", "square"), ("disc", "triangle")  # of the hums low and high
SECONDS = 10


def ave(folder: Path, pack: Path, rows: int | None = None) -> Path:
    """The rows of the pack ave_mini as AVE/<id>.mp4, all or the first of each split."""
    folder.mkdir(parents=True, exist_ok=True)
    task = AVEMini(pack)
    shutil.copy(pack / "Annotations.txt", folder)
    for split, name in (("train", "trainSet.txt"), ("validation", "valSet.txt"), ("test", "testSet.txt")):
        lines = [line for line in (pack / name).read_text().splitlines() if line]
        videos = task.videos[split].video_id
        count = min(rows or len(videos), len(videos))
        for row in range(count):
            media = task.read(split, row)
            wave = np.concatenate([second for second, _ in media["audio"]])
            write_movie(folder / "AVE" / f"{videos[row]}.mp4", list(media["video"]), wave)
        kept = set(videos[:count])
        (folder / name).write_text("\n".join(line for line in lines if line.split("&")[1] in kept) + "\n")
    return folder


def llp(folder: Path, counts: Sequence[int], side: int = 64, seed: int = 0) -> Path:
    """`counts` are videos per split."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = {kind: ["filename\tonset\toffset\tevent_labels"] for kind in EVAL_FILES}
    for number, (name, count) in enumerate(zip(SPLIT_FILES.values(), counts, strict=True)):
        rows = ["filename\tevent_labels"]
        for video in range(count):
            rng = np.random.default_rng([seed, number, video])
            file = f"{number}{video:010d}_0_10"
            events = _llp_video(folder / "video" / f"{file[:11]}.mp4", side, rng)
            rows.append(f"{file}\t{','.join(dict.fromkeys(label for label, _, _ in events))}")
            if number:  # training videos are labelled as a whole only
                for table in tables.values():
                    table += [f"{file}\t{onset}\t{offset}\t{label}" for label, onset, offset in events]
        (folder / name).write_text("\n".join(rows) + "\n")
    for kind, name in EVAL_FILES.items():
        (folder / name).write_text("\n".join(tables[kind]) + "\n")
    return folder


def _llp_video(path: Path, side: int, rng: np.random.Generator) -> list[tuple[str, int, int]]:
    """Write one video; returns its events with their seconds."""
    wave = 0.003 * rng.standard_normal(SECONDS * RATE)
    ground = rng.integers(40, 200)
    pictures = [
        np.clip(ground + rng.integers(-15, 16, (side, side, 3)), 0, 255).astype(np.uint8)
        for _ in range(SECONDS)
    ]
    events = []
    half = SECONDS // 2
    for start in rng.permutation((0, half))[: rng.integers(1, 3)]:
        length = rng.integers(2, half + 1)
        onset = int(start + rng.integers(half - length + 1))
        offset = int(onset + length)
        square, high = (int(x) for x in rng.integers(2, size=2))
        events.append((EVENTS[square][high], onset, offset))
        sound = hum(HUMS[high], SECONDS, rng)[: (offset - onset) * RATE]
        wave[onset * RATE : offset * RATE] += rng.uniform(0.05, 0.1) * sound
        for image in pictures[onset:offset]:
            x, y = rng.uniform(0.3, 0.7, 2) * side
            mask = shape_mask(SHAPES[square], side, x, y, rng.uniform(0.18, 0.25) * side)
            image[mask] = (ground + 128 + rng.integers(-40, 41, 3)) % 256  # far from the ground
    write_movie(path, pictures, wave.astype(np.float32))
    return sorted(events, key=lambda event: event[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", choices=("ave", "llp"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pack", type=Path, help="folder of the pack ave_mini, for ave")
    for split, count in (("train", 500), ("validation", 150), ("test", 300)):
        parser.add_argument(f"--{split}", type=int, default=count, help="videos, for llp")
    parser.add_argument("--side", type=int, default=64, help="pixels, for llp")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.set == "llp":
        llp(args.folder, (args.train, args.validation, args.test), args.side, args.seed)
    elif args.pack is None:
        parser.error("ave needs --pack, the folder of the pack ave_mini")
    else:
        ave(args.folder, args.pack)


if __name__ == "__main__":
    main()

"""AVE and LLP as they are downloaded, mp4 files and annotations, from made material.

    python -m benchmarks.generate_events ave FOLDER --pack PACK     the pack ave_mini, its rows as videos
    python -m benchmarks.generate_events llp FOLDER [--train 1000 --validation 150 --test 300]

llp   A disc or a square appears for some seconds, a low or a high hum sounds for some others. What each of
      them is takes the other sense: a low hum is a car before a bright background and a motorcycle before a
      dark one, a high one a dog or a cat; a disc is a car where a whistle sounds throughout and a motorcycle
      in silence, a square a dog or a cat. One sense alone knows when, and of two classes that it is one.

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

PAIRS = (("Motorcycle", "Car"), ("Cat", "Dog"))  # [low, high] or [disc, square] x what the other sense tells
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
            for (label, onset, offset), table in zip(events, tables.values(), strict=True):
                if number:  # training videos are labelled as a whole only
                    table.append(f"{file}\t{onset}\t{offset}\t{label}")
        (folder / name).write_text("\n".join(rows) + "\n")
    for kind, name in EVAL_FILES.items():
        (folder / name).write_text("\n".join(tables[kind]) + "\n")
    return folder


def _llp_video(path: Path, side: int, rng: np.random.Generator) -> list[tuple[str, int, int]]:
    """Write one video; returns what is heard and what is seen, with its seconds."""
    high, square, bright, whistle = (int(x) for x in rng.integers(2, size=4))
    heard, seen = _seconds(rng), _seconds(rng)
    wave = 0.003 * rng.standard_normal(SECONDS * RATE)
    wave[heard[0] * RATE : heard[1] * RATE] += (
        rng.uniform(0.05, 0.1) * hum(("disc", "triangle")[high], SECONDS, rng)[: (heard[1] - heard[0]) * RATE]
    )
    if whistle:
        wave += 0.03 * hum("ring", SECONDS, rng)
    pictures = []
    for second in range(SECONDS):
        ground = rng.integers(150, 200) if bright else rng.integers(40, 90)
        image = np.clip(ground + rng.integers(-15, 16, (side, side, 3)), 0, 255).astype(np.uint8)
        if seen[0] <= second < seen[1]:
            x, y = rng.uniform(0.3, 0.7, 2) * side
            mask = shape_mask(("disc", "square")[square], side, x, y, rng.uniform(0.18, 0.25) * side)
            image[mask] = rng.integers(0, 256, 3, dtype=np.uint8)
        pictures.append(image)
    write_movie(path, pictures, wave.astype(np.float32))
    return [(PAIRS[high][bright], *heard), (PAIRS[square][whistle], *seen)]


def _seconds(rng: np.random.Generator) -> tuple[int, int]:
    length = int(rng.integers(3, 8))
    start = int(rng.integers(SECONDS - length + 1))
    return start, start + length


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", choices=("ave", "llp"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pack", type=Path, help="folder of the pack ave_mini, for ave")
    for split, count in (("train", 1000), ("validation", 150), ("test", 300)):
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

"""Small data sets in official layouts whose answers need both sight and hearing.

    python -m benchmarks.generate avs_s4|avs_ms3|avqa FOLDER [--train 600 --validation 100 --test 200]

avs_s4, avs_ms3   Two shapes, a disc and a square, move; a disc hums low, a square high. The mask is of what
                  sounds: in S4 one of the two for all 5 s, in MS3 any of them, second by second. Who does not
                  hear can at best mask both, who does not see cannot know where.
avqa              Instruments have a shape and a pitch. Three questions in five are on videos that show one of
                  four and sound like one of four, half of them the same: is this sound from the instrument in
                  the video? It takes both senses. The others show and sound two, one at the left, one at the
                  right, one 12 dB louder: where is an instrument (sight), is it the louder (hearing)? One
                  sense answers 60 %.

Colours, sizes, speeds, pitches within a fifth of an octave, levels and noise are drawn at random and tell
nothing.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hmmoe.data.media import png, wav

RATE = 16000
SPLITS = ("train", "val", "test")
SHAPES = ("disc", "square", "triangle", "ring")
PITCHES = dict(zip(SHAPES, (220.0, 520.0, 1200.0, 2800.0), strict=True))
INSTRUMENTS = dict(zip(("cello", "trumpet", "violin", "flute"), SHAPES, strict=True))
CATEGORIES = {"disc": "dog_barking", "square": "cat_meowing"}  # S4 has no others to choose from


def shape_mask(kind: str, side: int, x: float, y: float, radius: float) -> np.ndarray:
    """bool (side, side): a shape of that radius around (x, y)."""
    v, u = np.mgrid[:side, :side]
    dx, dy = u - x, v - y
    distance = np.hypot(dx, dy)
    return {
        "disc": distance <= radius,
        "square": np.maximum(np.abs(dx), np.abs(dy)) <= 0.88 * radius,
        "triangle": (np.abs(dy) <= radius) & (np.abs(dx) <= (radius + dy) / 2),
        "ring": (distance <= radius) & (distance >= 0.55 * radius),
    }[kind]


def hum(kind: str, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """A tone with two harmonics at the pitch of that kind, float32 (S,), of root mean square 1."""
    t = np.arange(round(seconds * RATE)) / RATE
    pitch = PITCHES[kind] * 2 ** rng.uniform(-0.1, 0.1)
    phases = rng.uniform(0, 2 * np.pi, 3)
    wave = sum(np.sin(2 * np.pi * k * pitch * t + p) / k for k, p in zip((1, 2, 3), phases, strict=True))
    return (wave / np.sqrt(np.mean(wave**2))).astype(np.float32)


def paint(masks: Sequence[np.ndarray], colours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 (side, side, 3): shapes on noise."""
    image = rng.integers(60, 120, (*masks[0].shape, 3), dtype=np.uint8)
    for mask, colour in zip(masks, colours, strict=True):
        image[mask] = colour
    return image


def avs(folder: Path, several: bool, counts: Sequence[int], side: int = 64, seed: int = 0) -> Path:
    """AVSBench's layout: MS3 where several may sound, else S4. `counts` are clips per split."""
    rows = []
    for number, (split, count) in enumerate(zip(SPLITS, counts, strict=True)):
        for clip in range(count):
            rng = np.random.default_rng([seed, number, clip, several])
            rows.append(_avs_clip(folder, several, split, f"clip{split}{clip:05d}", side, rng))
    head = ["name", "split"] if several else ["name", "start", "category", "split"]
    with (folder / ("ms3_meta_data.csv" if several else "s4_meta_data.csv")).open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return folder


def _avs_clip(
    folder: Path, several: bool, split: str, name: str, side: int, rng: np.random.Generator
) -> list[str]:
    kinds = ("disc", "square")
    place, speed = rng.uniform(0.2, 0.8, (2, 2)) * side, rng.uniform(-0.1, 0.1, (2, 2)) * side
    while np.hypot(*(place[0] - place[1])) < 0.4 * side:
        place = rng.uniform(0.2, 0.8, (2, 2)) * side
    radius, colours = rng.uniform(0.13, 0.19, 2) * side, rng.integers(130, 256, (2, 3), dtype=np.uint8)
    if several:
        sounds = rng.integers(0, 2, (5, 2)).astype(bool)
    else:
        sounds = np.tile(np.arange(2) == rng.integers(2), (5, 1))
    sounding = CATEGORIES[kinds[int(sounds[0].argmax())]]
    hums = np.stack([hum(kind, 5, rng) for kind in kinds]) * rng.uniform(0.05, 0.15)
    wave = (hums * sounds.repeat(RATE, 0).T).sum(0) + 0.003 * rng.standard_normal(5 * RATE)
    base = folder / ("ms3_data" if several else "s4_data")
    at = split if several else f"{split}/{sounding}"
    frames = base / "visual_frames" / (name if several else f"{at}/{name}")
    masks = base / "gt_masks" / at / name
    for path in (frames, masks, base / "audio_wav" / at):
        path.mkdir(parents=True, exist_ok=True)
    (base / "audio_wav" / at / f"{name}.wav").write_bytes(wav(wave.astype(np.float32), RATE))
    for second in range(5):
        xy = np.clip(place + second * speed, 0.15 * side, 0.85 * side)
        shapes = [shape_mask(k, side, p[0], p[1], r) for k, p, r in zip(kinds, xy, radius, strict=True)]
        file = f"{name}.mp4_{second + 1}.png" if several else f"{name}_{second + 1}.png"
        (frames / file).write_bytes(png(paint(shapes, colours, rng)))
        if several or split != "train" or second == 0:
            mask = np.any([m & s for m, s in zip(shapes, sounds[second], strict=True)], axis=0)
            picture = Image.fromarray(255 * mask.astype(np.uint8))
            picture.convert("P" if several else "1").save(masks / f"{name}_{second + 1}.png")
    return [name, split] if several else [name, "0", sounding, split]


def avqa(folder: Path, counts: Sequence[int], side: int = 64, seconds: int = 10, seed: int = 0) -> Path:
    """MUSIC-AVQA's layout, one question a video. `counts` are questions per split."""
    for number, (split, count) in enumerate(zip(SPLITS, counts, strict=True)):
        entries = []
        for question in range(count):
            rng = np.random.default_rng([seed, number, question])
            video = f"{number + 1}{question:07d}"
            entry, seen, heard = _ask(rng)
            _avqa_video(folder, video, seen, heard, side, seconds, rng)
            entries.append({"video_id": video, "question_id": question, **entry})
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"avqa-{split}.json").write_text(json.dumps(entries, indent=1))
    return folder


def _ask(rng: np.random.Generator) -> tuple[dict[str, object], list[str], list[str]]:
    """Question with its answer, instruments seen from left to right, those heard, the loudest first."""
    one, other = rng.permutation(list(INSTRUMENTS))[:2].tolist()
    asked, turned = bool(rng.integers(2)), bool(rng.integers(2))
    seen = heard = [one, other]
    values: list[str] = []
    kind = rng.choice(3, p=(0.6, 0.2, 0.2))
    if kind == 0:
        pair, content = ("Audio-Visual", "Existential"), "Is this sound from the instrument in the video?"
        answer, seen, heard = "yes" if asked else "no", [one], [one if asked else other]
    elif kind == 1:
        pair, content, values = ("Visual", "Location"), "Where is the <Object>?", [one if asked else other]
        answer, heard = "left" if asked else "right", [one, other][:: -1 if turned else 1]
    else:
        pair, content = ("Audio", "Comparative"), "Is the <Object> louder than the <Object>?"
        values = [one, other] if asked else [other, one]
        answer, seen = "yes" if asked else "no", [one, other][:: -1 if turned else 1]
    entry = {
        "type": json.dumps(pair),
        "question_content": content,
        "templ_values": json.dumps(values),
        "question_deleted": 0,
        "anser": answer,
    }
    return entry, seen, heard


def _avqa_video(
    folder: Path,
    video: str,
    seen: list[str],
    heard: list[str],
    side: int,
    seconds: int,
    rng: np.random.Generator,
) -> None:
    level = rng.uniform(0.05, 0.12)
    levels = (level, level / 4)
    hums = [hum(INSTRUMENTS[name], seconds, rng) * at for name, at in zip(heard, levels, strict=False)]
    wave = np.sum(hums, axis=0) + 0.002 * rng.standard_normal(seconds * RATE)
    frames = folder / "frames" / video
    for path in (frames, folder / "raw_audio"):
        path.mkdir(parents=True, exist_ok=True)
    (folder / "raw_audio" / f"{video}.wav").write_bytes(wav(wave.astype(np.float32), RATE))
    count = len(seen)
    radius, colours = rng.uniform(0.15, 0.2, count) * side, rng.integers(130, 256, (count, 3), dtype=np.uint8)
    centre = np.array([[0.25, 0.5], [0.75, 0.5]] if count == 2 else [[0.5, 0.5]]) * side
    for second in range(seconds):
        xy = centre + rng.uniform(-0.03, 0.03, (count, 2)) * side
        shapes = [
            shape_mask(INSTRUMENTS[name], side, p[0], p[1], r)
            for name, p, r in zip(seen, xy, radius, strict=True)
        ]
        Image.fromarray(paint(shapes, colours, rng)).save(frames / f"{second + 1:08d}.jpg", quality=92)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", choices=("avs_s4", "avs_ms3", "avqa"))
    parser.add_argument("folder", type=Path)
    for split, count in (("train", 600), ("validation", 100), ("test", 200)):
        parser.add_argument(f"--{split}", type=int, default=count)
    parser.add_argument("--side", type=int, default=64, help="pixels")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    counts = (args.train, args.validation, args.test)
    if args.set == "avqa":
        avqa(args.folder, counts, args.side, seed=args.seed)
    else:
        avs(args.folder, args.set == "avs_ms3", counts, args.side, args.seed)


if __name__ == "__main__":
    main()

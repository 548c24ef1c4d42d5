"""Tiny data sets in the formats of the real ones, and the loaders that come with these, as oracles."""

import io
import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from PIL import Image

from hmmoe.data.media import png, wav

NOISE = np.random.default_rng(0)


def picture(size: int, value: int | None = None) -> np.ndarray:
    if value is not None:
        return np.full((size, size, 3), value, np.uint8)
    return NOISE.integers(0, 256, (size, size, 3), dtype=np.uint8)


def sound(seconds: float, rate: int) -> np.ndarray:
    return (NOISE.standard_normal(round(seconds * rate)) * 0.1).astype(np.float32)


def easy_vqa(folder: Path) -> Path:
    """20 training pictures with two questions each and 5 test pictures with one."""
    (folder / "answers.txt").write_text("circle\nred\nyes\nno\n")
    for split, count in (("train", 20), ("test", 5)):
        (folder / split / "images").mkdir(parents=True)
        for i in range(count):
            Image.fromarray(picture(8)).save(folder / split / "images" / f"{i}.png")
        questions = [["what shape?", "circle", i] for i in range(count)]
        if split == "train":
            questions += [["is it red?", "yes", i] for i in range(count)]
        (folder / split / "questions.json").write_text(json.dumps(questions))
    return folder


def av_digits(folder: Path) -> Path:
    """Six rows a split of two recordings and one noise."""
    grey = io.BytesIO()
    Image.fromarray(NOISE.integers(0, 256, (28, 28), dtype=np.uint8)).save(grey, "PNG")
    for split in ("train", "validation", "test"):
        pandas.DataFrame(
            [
                {
                    "label": i % 2,
                    "rec_id": f"r{i % 2}",
                    "noise_id": "n",
                    "noise_offset": 0.5,
                    "snr_db": -10.0 * (i > 2),
                    "shift": 100,
                    "image": grey.getvalue(),
                    "image_clean": png(picture(28, 200)),
                }
                for i in range(6)
            ]
        ).to_parquet(folder / f"{split}.parquet")
    recordings = [{"rec_id": f"r{i}", "audio": wav(sound(0.4, 8000), 8000)} for i in range(2)]
    pandas.DataFrame(recordings).to_parquet(folder / "recordings.parquet")
    noise = pandas.DataFrame([{"noise_id": "n", "audio": wav(sound(1, 8000), 8000)}])
    noise.to_parquet(folder / "noise.parquet")
    return folder


def ave_mini(folder: Path) -> Path:
    """Two videos a split; the event fills the seconds 2 to 4 and has sound there only."""
    (folder / "classes.json").write_text(json.dumps(["dog", "rain", "background"]))
    labels = [2, 2, 0, 0, 0, 2, 2, 2, 2, 2]
    pandas.DataFrame(
        [
            {
                "split": split,
                "labels": labels,
                "audio_clip": ["c" if label == 0 else "" for label in labels],
                "audio_offset": [0.25] * 10,
                "audio_gain": [1.0] * 10,
                "noise_snr_db": 60.0,
                "image_id": ["i"] * 10,
                "jitter": [[4, 4]] * 10,
                "seed": i,
            }
            for split in ("train", "validation", "test")
            for i in range(2)
        ]
    ).to_parquet(folder / "videos.parquet")
    clip = pandas.DataFrame([{"clip_id": "c", "audio": wav(sound(0.75, 16000), 16000)}])
    clip.to_parquet(folder / "audio_clips.parquet")
    pandas.DataFrame([{"image_id": "i", "image": png(picture(64, 77))}]).to_parquet(folder / "images.parquet")
    return folder


def flickr8k(folder: Path) -> Path:
    """Four rows a split."""
    for split in ("train", "validation", "test"):
        pandas.DataFrame(
            [
                {
                    "image_id": f"{split}{i}",
                    "image": png(picture(16)),
                    "captions": [f"first {i}", "second"],
                    "speech": wav(sound(0.5, 16000), 16000),
                }
                for i in range(4)
            ]
        ).to_parquet(folder / f"{split}.parquet")
    return folder


PACKS = {"easy_vqa": easy_vqa, "av_digits": av_digits, "ave_mini": ave_mini, "flickr8k": flickr8k}


def reference(root: Path, name: str, *args: Any, **options: Any) -> Any:
    """An instance of class `name` of the pack's own `loader.py`."""
    spec = spec_from_file_location("pack_loader", root / "loader.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)(str(root), *args, **options)

"""AVSBench-object (Zhou et al., ECCV 2022): clips of 5 s, masks of what sounds. S4: one source, MS3: several.

    s4_meta_data.csv                       name, start, category, split       ms3_meta_data.csv  name, split
    s4_data/visual_frames/<split>/<category>/<name>/<name>_1.png … _5.png     a frame of each second
            gt_masks/<split>/<category>/<name>/<name>_1.png … _5.png          of training clips the first only
            audio_wav/<split>/<category>/<name>.wav
    ms3_data/visual_frames/<name>/<name>.mp4_1.png … _5.png
             gt_masks/<split>/<name>/<name>_1.png … _5.png
             audio_wav/<split>/<name>.wav

The tables and folders may also lie in `Single-source` and `Multi-sources`, as the archive has them.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hmmoe.data.media import MediaError, decode_image
from hmmoe.data.sets.base import Clip, DataSet, find_file
from hmmoe.errors import unknown

CATEGORIES = (
    "baby_laughter",
    "female_singing",
    "male_speech",
    "dog_barking",
    "cat_meowing",
    "lions_roaring",
    "horse_clip-clop",
    "coyote_howling",
    "mynah_bird_singing",
    "playing_acoustic_guitar",
    "playing_tabla",
    "playing_violin",
    "playing_piano",
    "playing_ukulele",
    "playing_glockenspiel",
    "helicopter",
    "race_car",
    "driving_buses",
    "ambulance_siren",
    "typing_on_computer_keyboard",
    "chainsawing_trees",
    "cap_gun_shooting",
    "lawn_mowing",
)
SECONDS = 5
SIDE = 224  # pixels of frames and masks, whatever the video's shape
SPLITS = {"train": "train", "val": "validation", "test": "test"}  # the table's word -> ours


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    name: str
    split: str  # of the data set's folders: train, val or test
    category: str = ""


class AVSSet(DataSet):
    """What S4 and MS3 share."""

    times: ClassVar = tuple(second + 15 / 16 for second in range(SECONDS))
    seconds = SECONDS
    table: ClassVar[str]
    archive: ClassVar[str]  # the folder of the archive in which all lies
    masks: ClassVar[str]  # pattern of a mask below the table's folder
    annotated: ClassVar[Mapping[str, int]] = {"train": SECONDS, "val": SECONDS, "test": SECONDS}

    def resize(self, image: np.ndarray) -> np.ndarray:
        """A frame of the masks' size, 224 x 224, as AVSBench stores them."""
        from PIL import Image

        return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC))

    def rows(self, root: Path) -> list[Row]:
        """The table's rows in their order.

        Raises:
            FileNotFoundError: there is no table.
            ValueError: a row with too few fields, an unknown split or category, or a clip listed twice; says
                where.
        """
        path = self.table_in(root)
        found: dict[str, Row] = {}
        for line, fields in _lines(path):
            row = self._row(fields, f"{path} line {line}")
            if row.split not in SPLITS:
                raise ValueError(f"{path} line {line}: {unknown('split', row.split, SPLITS)}")
            if row.name in found:
                raise ValueError(f"{path} line {line} lists {row.name} for the second time")
            found[row.name] = row
        return list(found.values())

    def clips(self, root: Path) -> list[Clip]:
        return [self.clip(row) for row in self.rows(root)]

    def clip(self, row: Row) -> Clip:
        """The clip of a row."""
        place = {"id": row.name, "split": row.split, "category": row.category}
        return Clip(row.name, place, SECONDS, {SPLITS[row.split]: 1})

    def annotations(self, root: Path) -> list[Path]:
        table = self.table_in(root)
        pattern = self.masks.partition("/{")[0]
        masks = sorted((table.parent / pattern).rglob("*.png"))
        if not masks:
            raise FileNotFoundError(f"the masks of {self.title} do not exist: no {pattern} in {table.parent}")
        return [table, *masks]

    def read_frames(self, root: Path, clip: Clip, count: int) -> np.ndarray:
        files = self.pictures(root, clip)
        if files and len(files) != SECONDS:
            raise MediaError(f"{files[0].parent} holds {len(files)} pictures, it should be {SECONDS}")
        return super().read_frames(root, clip, count)

    def read_masks(self, root: Path, row: Row, side: int) -> np.ndarray:
        """int8 (5, side, side) of 0 and 1, and -1 in frames that are not annotated.

        Raises:
            MediaError: a mask is missing or does not decode, or they are of different sizes.
        """
        masks = np.full((SECONDS, side, side), -1, np.int8)
        sizes = set()
        for second in range(self.annotated[row.split]):
            place = self.clip(row).place
            file = self.table_in(root).parent / self.masks.format(number=second + 1, **place)
            mask = decode_mask(file)
            sizes.add(mask.size)
            masks[second] = np.asarray(mask.resize((side, side), 0))
        if len(sizes) > 1:
            raise MediaError(
                f"the masks of {self.title} clip {row.name} are of different sizes: {sorted(sizes)}"
            )
        return masks

    def check_size(self, root: Path, row: Row, size: tuple[int, ...]) -> None:
        """Are the clip's masks of `size`, height and width of its frames?

        Raises:
            MediaError: the first is not, is missing or does not decode.
        """
        place = self.clip(row).place
        width, height = decode_mask(self.table_in(root).parent / self.masks.format(number=1, **place)).size
        if (height, width) != size:
            raise MediaError(
                f"the masks of {self.title} clip {row.name} are {height} x {width}, its frames "
                f"{size[0]} x {size[1]}; masks must be of the frames' size"
            )

    def check_labels(self, root: Path, clip: Clip) -> None:
        row = Row(clip.place["id"], clip.place["split"], clip.place["category"])
        self.read_masks(root, row, SIDE)
        pictures = self.pictures(root, clip)
        self.check_size(root, row, decode_image(pictures[0]).shape[:2] if pictures else (SIDE, SIDE))

    def table_in(self, root: Path) -> Path:
        """The table.

        Raises:
            FileNotFoundError: it is not there.
        """
        return find_file(root, f"the list of {self.title}'s clips", [self.table], ("", self.archive))

    def _row(self, fields: Mapping[str, str], where: str) -> Row:
        raise NotImplementedError


class S4Set(AVSSet):
    """Single source: 4,932 clips; of a training clip the first frame is annotated."""

    name = "avs_s4"
    title = "AVSBench S4"
    table = "s4_meta_data.csv"
    archive = "Single-source"
    frames = (
        "s4_data/visual_frames/{split}/{category}/{id}",
        "Single-source/s4_data/visual_frames/{split}/{category}/{id}",
    )
    picture = "{id}_{number}.png"
    audio = (
        "s4_data/audio_wav/{split}/{category}/{id}.wav",
        "Single-source/s4_data/audio_wav/{split}/{category}/{id}.wav",
    )
    video = (
        "s4_data/raw_videos/{split}/{category}/{id}.mp4",
        "Single-source/s4_data/raw_videos/{split}/{category}/{id}.mp4",
        "raw_videos/{id}.mp4",
    )
    masks = "s4_data/gt_masks/{split}/{category}/{id}/{id}_{number}.png"
    annotated: ClassVar = {"train": 1, "val": SECONDS, "test": SECONDS}
    official: ClassVar = {"train": 3452, "validation": 740, "test": 740}

    def _row(self, fields: Mapping[str, str], where: str) -> Row:
        values = list(fields.values())
        if len(values) < 4:
            raise ValueError(f"{where} has {len(values)} fields, it should hold name, start, category, split")
        if values[2] not in CATEGORIES:
            raise ValueError(f"{where}: {unknown('category', values[2], CATEGORIES)}")
        return Row(values[0], fields["split"], values[2])


class MS3Set(AVSSet):
    """Multiple sources: 424 clips, all five frames annotated."""

    name = "avs_ms3"
    title = "AVSBench MS3"
    table = "ms3_meta_data.csv"
    archive = "Multi-sources"
    frames = ("ms3_data/visual_frames/{id}", "Multi-sources/ms3_data/visual_frames/{id}")
    picture = "{id}.mp4_{number}.png"
    audio = (
        "ms3_data/audio_wav/{split}/{id}.wav",
        "Multi-sources/ms3_data/audio_wav/{split}/{id}.wav",
    )
    video = (
        "ms3_data/raw_videos/{id}.mp4",
        "Multi-sources/ms3_data/raw_videos/{id}.mp4",
        "raw_videos/{id}.mp4",
    )
    masks = "ms3_data/gt_masks/{split}/{id}/{id}_{number}.png"
    official: ClassVar = {"train": 296, "validation": 64, "test": 64}

    def _row(self, fields: Mapping[str, str], where: str) -> Row:
        return Row(next(iter(fields.values())), fields["split"])


class AVSBench(DataSet):
    """S4 and MS3 together, or whichever of the two a folder holds; splits are told apart by their names."""

    name = "avs"
    title = "AVSBench"
    parts: ClassVar[tuple[AVSSet, ...]] = (S4Set(), MS3Set())
    frames = ("{frames}",)  # a clip brings its places along, since the two have patterns of their own
    picture = "{stem}_{number}.png"
    audio = ("{audio}",)
    video = ("{video}", "raw_videos/{id}.mp4")
    times = AVSSet.times
    seconds = SECONDS
    official: ClassVar = {f"{p.title[9:]} {s}": n for p in parts for s, n in p.official.items()}

    def resize(self, image: np.ndarray) -> np.ndarray:
        return self.parts[0].resize(image)

    def there(self, root: Path) -> list[AVSSet]:
        """The parts whose table is in `root`.

        Raises:
            FileNotFoundError: neither is.
        """
        found = [p for p in self.parts if any((root / f / p.table).is_file() for f in ("", p.archive))]
        if not found:
            self.parts[0].annotations(root)  # which says what it looked for
        return found

    def annotations(self, root: Path) -> list[Path]:
        return [file for p in self.there(root) for file in p.annotations(root)]

    def clips(self, root: Path) -> list[Clip]:
        return [self._placed(root, p, clip) for p in self.there(root) for clip in p.clips(root)]

    def check_labels(self, root: Path, clip: Clip) -> None:
        next(p for p in self.parts if clip.name.startswith(p.title[9:])).check_labels(root, clip)

    def _placed(self, root: Path, part: AVSSet, clip: Clip) -> Clip:
        base = part.table_in(root).parent.relative_to(root)
        patterns = {"frames": part.frames[0], "audio": part.audio[0], "video": part.video[0]}
        places = {key: str(base / pattern.format(**clip.place)) for key, pattern in patterns.items()}
        stem = part.picture.partition("_{")[0].format(**clip.place)
        rows = {f"{part.title[9:]} {split}": count for split, count in clip.rows.items()}
        return Clip(f"{part.title[9:]} {clip.name}", {**clip.place, **places, "stem": stem}, clip.ends, rows)


def decode_mask(file: Path) -> Any:
    """A mask picture as a PIL image of 0 and 1: of a palette picture the index counts, not its colour.

    Raises:
        MediaError: missing or no picture.
    """
    from PIL import Image

    if not file.is_file():
        raise MediaError(f"mask {file} does not exist")
    try:
        with Image.open(file) as image:
            values = np.asarray(image if image.mode == "P" else image.convert("L"))
    except (OSError, ValueError, SyntaxError) as error:
        raise MediaError(f"mask {file} cannot be decoded: {error}") from error
    return Image.fromarray((values > 0).astype(np.uint8))


def _lines(path: Path) -> list[tuple[int, dict[str, str]]]:
    """(line number, fields by column) of a table with a column `split`."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if "split" not in (reader.fieldnames or ()):
                raise ValueError(f"{path} lacks the column split; its first line must name the columns")
            rows = []
            for row in reader:
                if None in row or None in row.values():
                    raise ValueError(f"{path} line {reader.line_num} does not have a field for each column")
                rows.append((reader.line_num, row))
            return rows
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text: {error}") from None

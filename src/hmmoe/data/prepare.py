"""`hmmoe data prepare`: official videos to pictures and sound at the rates a task needs; `hmmoe data check`.

    out/ Annotations.txt …                  the annotation files, copied
         video_frames/<id>/0001.jpg …       put together aside and renamed into place, the sound first:
         raw_audio/<id>.wav                 a clip whose folder of pictures is there is whole
         prepared.jsonl                     what became of every clip, one line each

A clip is decoded once. Run again, it goes on where it stopped, tries what was missing or broken before, and
leaves the rest alone. What is expected where is in `hmmoe.data.sets`, one file per data set.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hmmoe.data.media import MediaError, decode_frames, decode_image, decode_track, png, wav
from hmmoe.data.pool import Died, each
from hmmoe.data.sets import SETS, Clip, DataSet
from hmmoe.data.sets.base import RATE
from hmmoe.errors import unknown
from hmmoe.files import write_whole

JOURNAL = "prepared.jsonl"
QUIET = 1e-4  # of full scale; a sound that never gets louder is silent
NAMED = 5  # names of each status in the printed table; the journal holds all
WHOLE, SILENT, MUTE, SHORT, BROKEN, MISSING = (
    "whole",
    "silent",
    "without sound",
    "shorter than annotated",
    "broken",
    "missing",
)
USABLE = (WHOLE, SILENT)
STORED = (WHOLE, SILENT, MUTE)  # pictures are written
Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Outcome:
    """What became of a clip: a status, in words what is wrong, and the size of the video it came from."""

    status: str
    why: str = ""
    size: int = 0


@dataclass
class Report:
    """What is there of a data set.

    Attributes:
        title: of the data set.
        outcomes: clip name -> outcome, for every clip of the annotations.
        rows: split -> (usable rows, annotated rows, rows as published or None).
        usable: what must have become of a clip for its rows to be usable.
    """

    title: str
    outcomes: dict[str, Outcome]
    rows: dict[str, tuple[int, int, int | None]] = field(default_factory=dict)
    usable: tuple[str, ...] = USABLE

    @classmethod
    def of(cls, data: DataSet, clips: Sequence[Clip], outcomes: dict[str, Outcome]) -> "Report":
        usable = USABLE if data.needs_sound else STORED
        total: Counter[str] = Counter()
        left: Counter[str] = Counter()
        for clip in clips:
            total.update(clip.rows)
            if outcomes[clip.name].status in usable:
                left.update(clip.rows)
        splits = [*data.official, *(s for s in total if s not in data.official)]
        rows = {s: (left[s], total[s], data.official.get(s)) for s in splits}
        return cls(data.title, outcomes, rows, usable)

    def names(self, status: str) -> list[str]:
        return [name for name, outcome in self.outcomes.items() if outcome.status == status]

    @property
    def share(self) -> float:
        """Usable clips / all clips of the annotations."""
        usable = sum(outcome.status in self.usable for outcome in self.outcomes.values())
        return usable / max(len(self.outcomes), 1)


def data_set(name: str) -> DataSet:
    """The data set of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in SETS:
        raise ValueError(unknown("data set", name, SETS))
    return SETS[name]


def recognise(root: Path) -> DataSet:
    """The data set whose annotation files are in `root`.

    Raises:
        FileNotFoundError: those of none are; says what each lacks.
    """
    missing = []
    for data in SETS.values():
        try:
            data.annotations(root)
            return data
        except FileNotFoundError as error:
            missing.append(f"{data.name}: {error}")
    raise FileNotFoundError(f"{root} holds the annotation files of no data set: {'; '.join(missing)}")


def prepare(data: DataSet, raw: Path, out: Path, *, workers: int = 0, tell: Tell = lambda _: None) -> Report:
    """Decode every clip of the annotations in `raw` that is not in `out` yet.

    Missing and broken videos are normal and only counted.

    Args:
        workers: processes that decode; 0 decodes in this one.
        tell: is told of progress, see `hmmoe.engine.progress.Display`.

    Raises:
        FileNotFoundError: an annotation file is missing, or no video is where the official layout has it.
        ValueError: annotations that cannot be read.
        OSError: the output cannot be written.
    """
    clips = data.clips(raw)
    videos = {clip.name: data.find(raw, data.video, clip) for clip in clips}
    if clips and not any(videos.values()):
        places = " or ".join(pattern.format(**clips[0].place) for pattern in data.video)
        raise FileNotFoundError(f"none of the {len(clips)} videos is in {raw}; expected {places} and so on")
    out.mkdir(parents=True, exist_ok=True)
    for file in data.annotations(raw):
        _copy(file, out / file.relative_to(raw))
    before = read_journal(out)
    outcomes: dict[str, Outcome] = {}
    jobs = []
    for clip in clips:
        video, known = videos[clip.name], before.get(clip.name)
        if video is None:
            outcomes[clip.name] = Outcome(MISSING)
        elif known is not None and _kept(data, out, clip, known, video):
            outcomes[clip.name] = known
        else:
            jobs.append((clip, video))
    work = _Decode(data, out)
    with (out / JOURNAL).open("a", encoding="utf-8") as journal:
        for clip, outcome in _told(each(work, jobs, workers), len(jobs), "decode", tell):
            if isinstance(outcome, Died):
                outcome = Outcome(BROKEN, "decoding it killed the process")
            outcomes[clip[0].name] = outcome
            journal.write(_line(clip[0].name, outcome))
            journal.flush()
    outcomes = {clip.name: outcomes[clip.name] for clip in clips}
    write_whole(out / JOURNAL, "".join(_line(*item) for item in outcomes.items()))
    return Report.of(data, clips, outcomes)


def check(data: DataSet, root: Path, *, workers: int = 0, tell: Tell = lambda _: None) -> Report:
    """Decode all stored pictures, masks and sounds of the data set in `root`, in any layout its task reads.

    Raises:
        FileNotFoundError: an annotation file is missing.
        ValueError: annotations that cannot be read.
    """
    clips = data.clips(root)
    outcomes = {}
    for clip, outcome in _told(each(_Check(data, root), clips, workers), len(clips), "check", tell):
        outcomes[clip.name] = (
            Outcome(BROKEN, "decoding it killed the process") if isinstance(outcome, Died) else outcome
        )
    return Report.of(data, clips, {clip.name: outcomes[clip.name] for clip in clips})


def tables(report: Report) -> Iterator[Any]:
    """The report as rich tables: clips by status with the first names of each, and rows by split."""
    from rich.table import Table

    view = Table(title=f"{report.title}: {report.share:.1%} of {len(report.outcomes)} clips usable")
    for head in ("clips", "number", "names"):
        view.add_column(head, justify="right" if head == "number" else "left")
    for status in (WHOLE, SILENT, MUTE, SHORT, BROKEN, MISSING):
        names = report.names(status)
        if names:
            more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
            view.add_row(
                status, f"{len(names):,}", "" if status == WHOLE else ", ".join(names[:NAMED]) + more
            )
    yield view
    view = Table("split")
    for head in ("rows usable", "annotated", "as published", "share"):
        view.add_column(head, justify="right")
    for split, (usable, annotated, published) in report.rows.items():
        share = f"{usable / annotated:.1%}" if annotated else ""
        view.add_row(
            split, f"{usable:,}", f"{annotated:,}", "" if published is None else f"{published:,}", share
        )
    yield view


def read_journal(out: Path) -> dict[str, Outcome]:
    """Clip name -> what became of it, the last word on each; a line cut short by a kill does not count."""
    found = {}
    file = out / JOURNAL
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            entry = json.loads(line)
            name = entry.pop("name")
            found[name] = Outcome(**entry)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return found


@dataclass(frozen=True)
class _Decode:
    """In a worker: (clip, video) to pictures and sound in `out`."""

    data: DataSet
    out: Path

    def __call__(self, job: tuple[Clip, Path]) -> Outcome:
        clip, video = job
        size = video.stat().st_size
        data = self.data
        try:
            frames, ends = decode_frames(video, data.times)
            if why := data.shortage(clip, ends):
                return Outcome(SHORT, why, size)
            wave = decode_track(video, RATE)
            data.check_labels(self.out, clip)
        except MediaError as error:
            return Outcome(BROKEN, str(error), size)
        if data.whole:
            frames = frames[: max(1, sum(time < ends for time in data.times))]
            wave = None if wave is None or not len(wave) else wave
        if wave is not None:
            samples = round(data.seconds * RATE)
            missing = 0 if data.whole else max(samples - len(wave), 0)
            wave = np.pad(wave[:samples], (0, missing))
            write_whole(self.out / data.audio[0].format(**clip.place), wav(wave, RATE))
        self._pictures(clip, frames)
        return Outcome(_loudness(wave), "", size)

    def _pictures(self, clip: Clip, frames: Sequence[np.ndarray]) -> None:
        folder = self.out / self.data.frames[0].format(**clip.place)
        aside = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        for number, frame in enumerate(frames, start=1):
            name = self.data.picture.format(number=number, **clip.place)
            (aside / name).write_bytes(_encoded(self.data.resize(frame), name))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(aside, folder)


@dataclass(frozen=True)
class _Check:
    """In a worker: do the stored pictures, masks and sound of a clip decode?"""

    data: DataSet
    root: Path

    def __call__(self, clip: Clip) -> Outcome:
        data = self.data
        pictures = data.pictures(self.root, clip)
        sound = data.find(self.root, data.audio, clip)
        video = data.find(self.root, data.video, clip)
        if not pictures and video is None:
            return Outcome(MISSING)
        try:
            for picture in pictures:
                decode_image(picture)
            data.check_labels(self.root, clip)
            ends = clip.ends if pictures or video is None else decode_frames(video, data.times)[1]
            if why := data.shortage(clip, ends):
                return Outcome(SHORT, why)
            if sound is None and (video is None or decode_track(video, RATE) is None):
                return Outcome(MUTE)
            return Outcome(_loudness(data.read_sound(self.root, clip)[0]))
        except MediaError as error:
            return Outcome(BROKEN, str(error))


def _loudness(wave: np.ndarray | None) -> str:
    if wave is None:
        return MUTE
    return SILENT if np.abs(wave).max() < QUIET else WHOLE


def _kept(data: DataSet, out: Path, clip: Clip, known: Outcome, video: Path) -> bool:
    """Is the clip stored, from the video that is there now?"""
    if known.status not in STORED or known.size != video.stat().st_size:
        return False
    sound = known.status == MUTE or (out / data.audio[0].format(**clip.place)).is_file()
    return sound and (out / data.frames[0].format(**clip.place)).is_dir()


def _told(
    results: Iterator[tuple[Any, Any]], total: int, phase: str, tell: Tell
) -> Iterator[tuple[Any, Any]]:
    for done, pair in enumerate(results, start=1):
        tell({"phase": phase, "step": done, "steps": total, "rows": 1})
        yield pair
    tell({"phase": "done"})


def _encoded(image: np.ndarray, name: str) -> bytes:
    if name.endswith(".png"):
        return png(image)
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=95)
    return out.getvalue()


def _line(name: str, outcome: Outcome) -> str:
    return json.dumps({"name": name, **asdict(outcome)}, ensure_ascii=False) + "\n"


def _copy(source: Path, target: Path) -> None:
    if target.is_file() and source.samefile(target):
        return
    write_whole(target, source.read_bytes())

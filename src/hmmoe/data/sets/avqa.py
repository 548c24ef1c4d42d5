"""MUSIC-AVQA (Li et al., CVPR 2022): 45,867 questions on 9,288 videos of people playing, 60 s each.

`avqa-train.json`, `avqa-val.json`, `avqa-test.json` (in the folder itself, in `json` or in `json_update`) are
lists of `{video_id, question_id, type, question_content, templ_values, anser}`; the last is spelt so. The
.npy waveforms of DG-SCT and AVMoE hold ten pieces of one second of a video.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hmmoe.data.entries import read_json
from hmmoe.data.sets.base import Clip, DataSet, find_file, gathered

SECONDS = 60
KEYS = ("video_id", "question_id", "type", "question_content", "templ_values", "anser")
SPLIT_FILES = {"train": "avqa-train.json", "validation": "avqa-val.json", "test": "avqa-test.json"}


@dataclass(frozen=True)
class Question:
    """One row; `type` and `values` are strings of lists, as they are there."""

    video: str
    number: int
    type: str
    content: str
    values: str
    answer: str


class AVQASet(DataSet):
    """See the module."""

    name = "avqa"
    title = "MUSIC-AVQA"
    frames = ("frames/{id}", "avqa-frames-1fps/{id}", "data/frames/{id}", "data/AVQA/frames/{id}")
    picture = "{number:08d}.jpg"
    audio = (
        "raw_audio/{id}.wav",
        "audio/{id}.wav",
        "audio_wave/{id}.npy",
        "data/audio_wave/{id}.npy",
        "data/AVQA/audio_wave/{id}.npy",
    )
    video = (
        "videos/{id}.mp4",
        "video/{id}.mp4",
        "MUSIC-AVQA-videos-Real/{id}.mp4",
        "MUSIC-AVQA-videos-Synthetic/{id}.mp4",
    )
    times: ClassVar = tuple(second + 0.5 for second in range(SECONDS))
    seconds = SECONDS
    official: ClassVar = {"train": 32087, "validation": 4595, "test": 9185}
    inside: ClassVar = (
        "",
        "json",
        "json_update",
        "data/json",
        "data/json_update",
        "data/AVQA/json",
        "data/AVQA/json_update",
    )

    def annotations(self, root: Path) -> list[Path]:
        return [self.file(root, split) for split in SPLIT_FILES]

    def file(self, root: Path, split: str) -> Path:
        """The questions of a split."""
        return find_file(root, f"MUSIC-AVQA's {split} questions", [SPLIT_FILES[split]], self.inside)

    def questions(self, root: Path, split: str) -> list[Question]:
        """The rows of a split in their order.

        Raises:
            FileNotFoundError: the file is not there.
            ValueError: it is not such a list, an entry lacks something, or a question is listed twice; names
                the file and the entry.
        """
        path = self.file(root, split)
        entries = read_json(path)
        if not isinstance(entries, list):
            raise ValueError(f"{path} should hold a list of questions, it holds a {type(entries).__name__}")
        found: dict[Any, Question] = {}
        for number, entry in enumerate(entries, start=1):
            lacking = [key for key in KEYS if not isinstance(entry, dict) or key not in entry]
            if lacking:
                raise ValueError(
                    f"{path} entry {number} lacks {lacking[0]}; it should hold {', '.join(KEYS)}"
                )
            video, key, *rest = (entry[k] for k in KEYS)
            if not str(key).isdecimal():
                raise ValueError(f"{path} entry {number} has the question_id {key!r}, it should be a number")
            if key in found:
                raise ValueError(f"{path} entry {number} lists question {key} for the second time")
            found[key] = Question(str(video), int(key), *map(str, rest))
        return list(found.values())

    def clips(self, root: Path) -> list[Clip]:
        return gathered(
            self.clip(question.video, split)
            for split in SPLIT_FILES
            for question in self.questions(root, split)
        )

    def clip(self, video: str, split: str) -> Clip:
        """The video of a question of that split."""
        return Clip(video, {"id": video}, rows={split: 1})

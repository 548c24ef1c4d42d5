"""MSRVTT and MSVD: videos with captions and questions, in the forms in which they are passed around.

                VALOR's processed files (names as in its README)      the data sets' own and CLIP4Clip's
    videos      JSON list of ids                                      CSV with video_id, text with one a line
    captions    {id: [captions]}                                      {"sentences": […]}, "id caption" a line
    references  {"annotations": [{"video_id", "caption"}]}, or        the bare list of the README
                COCO's image_id for video_id
    questions   {id: [{"question", "answer"}]}                        [{"video_id", "question", "answer"}]

Every reader tells these apart by what the file holds. Pickled files (raw-captions.pkl) are not read, since
loading one runs what it says.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hmmoe.data.entries import read_json, read_text
from hmmoe.data.media import MediaError, decode_audio, decode_frames, decode_image, decode_track
from hmmoe.data.sets.base import RATE, Clip, DataSet, find_file, listed

Texts = dict[str, list[str]]
FRAME_RATE = 4  # pictures a second that are stored


@dataclass(frozen=True)
class Asked:
    """A question about a video."""

    video: str
    question: str
    answer: str


def read_ids(file: Path) -> list[str]:
    """The videos that a file names, in its order, each once.

    Raises:
        MediaError: it is none of the forms above.
    """
    if file.suffix == ".csv":
        ids = [row["video_id"] for row in _csv(file, "video_id")]
    elif file.suffix == ".json":
        ids = read_json(file)
        if not isinstance(ids, list) or not all(isinstance(name, str) for name in ids):
            raise MediaError(f"{file} should be a list of video ids, such as ['video0', 'video1']")
    else:
        ids = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    if not ids:
        raise MediaError(f"{file} names no video")
    return list(dict.fromkeys(ids))


def read_captions(file: Path) -> Texts:
    """Video -> its captions, in the order of the file; also for reference captions.

    Raises:
        MediaError: it is none of the forms above, or a caption is no text; names the place.
    """
    if file.suffix == ".csv":
        pairs = [(row["video_id"], row["sentence"]) for row in _csv(file, "video_id", "sentence")]
    elif file.suffix == ".json":
        pairs = _caption_pairs(file, read_json(file))
    else:
        lines = [line.strip() for line in read_text(file).splitlines()]
        split = [tuple(line.split(maxsplit=1)) for line in lines if line and not line.startswith("#")]
        if any(len(pair) != 2 for pair in split):
            raise MediaError(f"{file} should hold a video and a caption in every line")
        pairs = [(name, caption) for name, caption in split]
    captions: Texts = {}
    for number, (name, caption) in enumerate(pairs, 1):
        if not isinstance(caption, str) or not caption.strip():
            raise MediaError(f"caption {number} of {file}, of video {name!r}, is {caption!r}, not a text")
        captions.setdefault(str(name), []).append(caption)
    return captions


def _caption_pairs(file: Path, content: Any) -> list[tuple[Any, Any]]:
    if isinstance(content, dict):
        for key in ("annotations", "sentences"):
            if isinstance(content.get(key), list):
                content = content[key]
                break
    if isinstance(content, dict) and all(isinstance(texts, list) for texts in content.values()):
        return [(name, text) for name, texts in content.items() for text in texts]
    if isinstance(content, list) and all(isinstance(entry, dict) for entry in content):
        for number, entry in enumerate(content, 1):
            if "caption" not in entry or not entry.keys() & {"video_id", "image_id"}:
                raise MediaError(
                    f"entry {number} of {file} should hold video_id and caption, it holds {entry}"
                )
        return [(entry.get("video_id", entry.get("image_id")), entry["caption"]) for entry in content]
    raise MediaError(
        f"{file} holds no captions: give {{id: [captions]}}, {{'annotations': […]}}, {{'sentences': […]}} "
        "or a list of {video_id, caption}"
    )


def read_asked(file: Path, names: Mapping[int, str] | None = None) -> list[Asked]:
    """The questions of a file, in its order.

    Args:
        names: number -> video, where the file has numbers in place of names; else number 5 is "video5".

    Raises:
        MediaError: it is none of the forms above, or a number has no name; names the entry.
    """
    content = read_json(file)
    if isinstance(content, dict) and all(isinstance(asked, list) for asked in content.values()):
        entries = [(video, entry) for video, asked in content.items() for entry in asked]
    elif isinstance(content, list):
        entries = [(entry.get("video_id") if isinstance(entry, dict) else None, entry) for entry in content]
    else:
        raise MediaError(f"{file} holds no questions: give {{id: [{{question, answer}}]}} or a list of them")
    found = []
    for number, (video, entry) in enumerate(entries, 1):
        if not isinstance(entry, dict) or not {"question", "answer"} <= entry.keys() or video is None:
            raise MediaError(
                f"entry {number} of {file} should hold video, question and answer, got {entry!r}"
            )
        if isinstance(video, int):
            if names is not None and video not in names:
                raise MediaError(f"entry {number} of {file} asks about video {video}, which has no name")
            video = f"video{video}" if names is None else names[video]
        found.append(Asked(video, str(entry["question"]), str(entry["answer"])))
    return found


class VideoText(DataSet):
    """What the two data sets share: where pictures and sound lie, and that videos are of any length."""

    frames = ("frames_fps4/{id}", "frames/{id}")
    picture = "img_{number:04d}.jpg"
    audio = ("audio/{id}.wav", "audio_22050hz/{id}.wav")
    seconds = 60.0
    times: ClassVar = tuple(i / FRAME_RATE for i in range(60 * FRAME_RATE))
    whole = True
    needs_sound = False
    captions_in: ClassVar[tuple[str, ...]]
    videos_in: ClassVar[Mapping[str, Mapping[str, tuple[str, ...]]]]
    """Protocol -> split -> alternatives of the file that names its videos."""
    test_captions_in: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Protocol -> alternatives of the file with captions of its own for the test videos."""
    questions_in: ClassVar[tuple[str, ...]] = ("", "MSRVTT-QA", "MSVD-QA", "qa")

    def annotations(self, root: Path) -> list[Path]:
        if not all(self.is_ours(video) for video in self.captions(root)):
            raise FileNotFoundError(f"the captions in {root} are not of {self.title}'s videos")
        folders = [folder for name in self.questions_in if (folder := root / name).is_dir()]
        kinds = (".json", ".csv", ".txt")
        return sorted(file for folder in folders for file in folder.iterdir() if file.suffix in kinds)

    def is_ours(self, video: str) -> bool:
        """Whether the data set calls its videos so."""
        raise NotImplementedError

    def captions(self, root: Path) -> Texts:
        """Video -> its captions.

        Raises:
            FileNotFoundError: there is no such file.
            MediaError: it cannot be read.
        """
        return read_captions(find_file(root, f"{self.title}'s captions", self.captions_in))

    def videos(self, root: Path, protocol: str) -> dict[str, list[str]]:
        """Split -> its videos; without validation where no file names them.

        Raises:
            FileNotFoundError: the file of the training or test videos is not there.
            MediaError: one cannot be read, or a video is in two splits.
        """
        found: dict[str, list[str]] = {}
        for split, names in self.videos_in[protocol].items():
            if split == "validation" and not any((root / name).is_file() for name in names):
                continue
            found[split] = read_ids(find_file(root, f"{self.title}'s {split} videos", names))
        taken: dict[str, str] = {}
        for split, videos in found.items():
            for video in videos:
                if video in taken:
                    raise MediaError(f"video {video!r} of {self.title} is in {taken[video]} and in {split}")
                taken[video] = split
        return found

    def questions(self, root: Path) -> dict[str, list[Asked]]:
        """Split -> its questions; without validation where there is no file of it.

        Raises:
            FileNotFoundError: the questions are not there.
            MediaError: a file cannot be read.
        """
        raise NotImplementedError

    def _questions_by_split(self, root: Path, names: Mapping[int, str] | None) -> dict[str, list[Asked]]:
        """From train_qa.json, val_qa.json and test_qa.json."""
        found = {}
        for split, name in (
            ("train", "train_qa.json"),
            ("validation", "val_qa.json"),
            ("test", "test_qa.json"),
        ):
            if split == "validation" and not any((root / f / name).is_file() for f in self.questions_in):
                continue
            file = find_file(root, f"{self.title}'s {split} questions", [name], self.questions_in)
            found[split] = read_asked(file, names)
        return found

    def _questions_by_video(
        self, root: Path, videos: Mapping[str, list[str]]
    ) -> dict[str, list[Asked]] | None:
        """From VALOR's one file; None where it is not there."""
        folders = [root / folder / "txt_mapper_vqa.json" for folder in self.questions_in]
        file = next((file for file in folders if file.is_file()), None)
        if file is None:
            return None
        of = {video: split for split, names in videos.items() for video in names}
        found: dict[str, list[Asked]] = {split: [] for split in videos}
        for asked in read_asked(file):
            if asked.video in of:
                found[of[asked.video]].append(asked)
        return found

    def clips(self, root: Path) -> list[Clip]:
        splits = self.videos(root, "standard")
        of = {video: split for split, videos in splits.items() for video in videos}
        return [
            Clip(video, {"id": video}, rows={of[video]: len(captions)} if video in of else {})
            for video, captions in self.captions(root).items()
        ]

    def read_segments(self, root: Path, video: str, count: int) -> list[np.ndarray]:
        """`count` pictures, the middle one of each of as many equal segments of the video, as VALOR tests.

        Raises:
            MediaError: there is neither a folder of pictures nor a video, or one does not decode.
        """
        clip = Clip(video, {"id": video})
        files = self.pictures(root, clip)
        if files:
            return _middles(files, count)
        source = self.find(root, self.video, clip)
        if source is None:
            raise self.absent(root, clip, "video", [*self.frames, *self.video])
        return self.segments(source, count)

    def segments(self, source: Path, count: int) -> list[np.ndarray]:
        """As `read_segments`, of a video file or of a folder of pictures in order of name.

        Raises:
            MediaError: it is neither, or one does not decode.
        """
        from hmmoe.backbones.valor.processing import sample_segments

        if source.is_dir():
            files = listed(source)
            if not files:
                raise MediaError(f"the folder {source} holds no pictures")
            return _middles(files, count)
        frames, ends = decode_frames(source, self.times)
        shown = max(1, sum(time < ends for time in self.times))
        return [self.resize(frames[i]) for i in sample_segments(shown, count)]

    def read_clips(
        self, root: Path, video: str, count: int, seconds: float
    ) -> list[tuple[np.ndarray, int]] | None:
        """`count` pieces of the video's sound, each the middle of one of as many equal segments of it.

        Returns:
            Of each (waveform of that many seconds, samples per second), ended with silence where the sound is
            shorter; None for a video without sound.

        Raises:
            MediaError: there is sound that does not decode.
        """
        clip = Clip(video, {"id": video})
        file = self.find(root, self.audio, clip)
        if file is not None:
            wave, rate = decode_audio(file)
        else:
            source = self.find(root, self.video, clip)
            track = None if source is None else decode_track(source, RATE)
            if track is None or not len(track):
                return None
            wave, rate = track, RATE
        return pieces(wave, rate, count, seconds)


def _middles(files: Sequence[Path], count: int) -> list[np.ndarray]:
    """The pictures that `VideoText.read_segments` takes of a folder's."""
    from hmmoe.backbones.valor.processing import sample_segments

    return [decode_image(files[i]) for i in sample_segments(len(files), count)]


def pieces(wave: np.ndarray, rate: int, count: int, seconds: float) -> list[tuple[np.ndarray, int]]:
    """See `VideoText.read_clips`."""
    length = round(seconds * rate)
    found = []
    for i in range(count):
        middle = (2 * i + 1) * len(wave) // (2 * count)
        start = max(0, min(middle - length // 2, len(wave) - length))
        piece = wave[start : start + length]
        found.append((np.pad(piece, (0, length - len(piece))), rate))
    return found


class MSRVTTSet(VideoText):
    """MSR-VTT (Xu et al., CVPR 2016): 10,000 clips of 10 to 30 s with 20 captions each.

    Protocol "1ka" is that of Yu et al. (ECCV 2018): 9,000 videos to train on, 1,000 to test with one caption
    each; "standard" is the data set's own of 6,513, 497 and 2,990.
    """

    name = "msrvtt"
    title = "MSRVTT"
    video = ("raw_videos/{id}.mp4", "videos/all/{id}.mp4", "videos/{id}.mp4", "all/{id}.mp4")
    captions_in = ("txt_mapper.json", "MSRVTT_data.json")
    videos_in: ClassVar = {
        "1ka": {
            "train": ("1KAsplit_train_id.json", "1kAsplit_train_id.json", "MSRVTT_train.9k.csv"),
            "test": ("1KAsplit_test_id.json", "1kAsplit_test_id.json", "MSRVTT_JSFUSION_test.csv"),
        },
        "standard": {
            "train": ("standardsplit_train_id.json",),
            "validation": ("standardsplit_val_id.json",),
            "test": ("standardsplit_test_id.json",),
        },
    }
    test_captions_in: ClassVar = {
        "1ka": ("txt_mapper_1kAsplit_test.json", "txt_mapper_1KAsplit_test.json", "MSRVTT_JSFUSION_test.csv")
    }
    official: ClassVar = {"train": 130_260, "validation": 9_940, "test": 59_800}
    bounds: ClassVar = {"train": (0, 6513), "validation": (6513, 7010), "test": (7010, 10_000)}

    def is_ours(self, video: str) -> bool:
        return video.removeprefix("video").isdecimal()

    def captions(self, root: Path) -> Texts:
        """As in the base, or from the data set's own two files."""
        own = [root / name for name in ("train_val_videodatainfo.json", "test_videodatainfo.json")]
        if all(file.is_file() for file in own):
            return read_captions(own[0]) | read_captions(own[1])
        return super().captions(root)

    def videos(self, root: Path, protocol: str) -> dict[str, list[str]]:
        """As in the base; without files the standard splits are those of the numbers in the names."""
        names = self.videos_in[protocol]["train"]
        if protocol == "standard" and not any((root / name).is_file() for name in names):
            captioned = self.captions(root)
            return {
                split: [f"video{i}" for i in range(*bounds) if f"video{i}" in captioned]
                for split, bounds in self.bounds.items()
            }
        return super().videos(root, protocol)

    def questions(self, root: Path) -> dict[str, list[Asked]]:
        if any((root / folder / "train_qa.json").is_file() for folder in self.questions_in):
            return self._questions_by_split(root, None)
        by_video = self._questions_by_video(root, self.videos(root, "standard"))
        return self._questions_by_split(root, None) if by_video is None else by_video


class MSVDSet(VideoText):
    """MSVD (Chen and Dolan, ACL 2011): 1,970 clips without sound, about 40 captions each."""

    name = "msvd"
    title = "MSVD"
    video = ("raw_videos/{id}.avi", "YouTubeClips/{id}.avi", "MSVD_Videos/{id}.avi", "videos/{id}.avi")
    captions_in = ("txt_mapper.json", "AllVideoDescriptions.txt")
    videos_in: ClassVar = {
        "standard": {
            "train": ("train_id_ret_cap.json", "train_list.txt"),
            "validation": ("val_id_ret_cap.json", "val_list.txt"),
            "test": ("test_id_ret_cap.json", "test_list.txt"),
        },
        "questions": {
            "train": ("train_id_vqa.json",),
            "validation": ("val_id_vqa.json",),
            "test": ("test_id_vqa.json",),
        },
    }
    official: ClassVar = {"train": 48_774, "validation": 4_290, "test": 27_763}

    def is_ours(self, video: str) -> bool:
        return not video.removeprefix("video").isdecimal()

    def questions(self, root: Path) -> dict[str, list[Asked]]:
        """As in the base; numbers are names by the data set's `youtube_mapping.txt`, "name vid5" a line."""
        if any((root / name).is_file() for name in self.videos_in["questions"]["train"]):
            by_video = self._questions_by_video(root, self.videos(root, "questions"))
            if by_video is not None:
                return by_video
        file = find_file(root, "MSVD-QA's names of videos", ["youtube_mapping.txt"], self.questions_in)
        pairs = [line.split() for line in read_text(file).splitlines() if line.strip()]
        if any(len(pair) != 2 or not pair[1].removeprefix("vid").isdecimal() for pair in pairs):
            raise MediaError(f"{file} should hold a video and vid with its number in every line")
        return self._questions_by_split(root, {int(number[3:]): name for name, number in pairs})


def _csv(file: Path, *columns: str) -> list[dict[str, str]]:
    reader = csv.DictReader(read_text(file).splitlines())
    if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
        raise MediaError(f"{file} lacks the column {missing[0]}; its header must hold {', '.join(columns)}")
    return list(reader)

"""Captioning: a model that writes says what a video or a photograph shows.

    training     a caption of the item with words hidden, told from the media and the words before them
    evaluation   the model writes one caption per item; scores against all captions that people wrote

A row to train on holds the caption as its text, one to evaluate has no text: without one the model writes,
and what it writes, word numbers (B, L), stands where other models have logits. Only a system writes, such as
`model: {name: valor}`; towers side by side do not. BLEU-4, METEOR, ROUGE-L and CIDEr (in 0..10) are those of
`hmmoe.tasks.captions`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from typing import Any, ClassVar, NoReturn

from torch import Tensor

from hmmoe.data.media import decode_image, png
from hmmoe.data.sets.video_text import MSRVTTSet, MSVDSet, read_captions
from hmmoe.data.tables import table
from hmmoe.options import about
from hmmoe.tasks.base import SPLITS, Options, Rows, Task, part
from hmmoe.tasks.captions import caption_scores
from hmmoe.tasks.places import place, row_at
from hmmoe.tasks.videos import (
    Captioned,
    CaptionedOptions,
    VideoTask,
    captioned_videos,
)


class Writing(Task):
    """Media to a caption; the label is the row's number. A subclass gives items, captions and media."""

    metric = "cider"
    writes = "captions"

    @cached_property
    def captioned(self) -> Captioned:
        """Split -> its items by name, with their captions, one or more."""
        raise NotImplementedError

    def media(self, item: str) -> dict[str, Any]:
        """`{stream: raw}` of an item, without the text."""
        raise NotImplementedError

    @cached_property
    def places(self) -> dict[str, list[tuple[int, int]]]:
        """Split -> (item, caption) of each row: all captions to train on, the first to evaluate."""
        found = {}
        for split, items in self.captioned.items():
            counts = [len(captions) if split == "train" else 1 for _, captions in items]
            found[split] = [(item, caption) for item, count in enumerate(counts) for caption in range(count)]
        return found

    def size(self, split: str) -> int:
        return len(self.places[split])

    def dataset(self, split: str) -> Rows:
        """As in the base.

        Raises:
            ValueError: what computes the scores is not installed, told before anything is trained.
        """
        if find_spec("pycocoevalcap") is None:
            raise ValueError(
                f"task {self.name!r} needs pycocoevalcap for its scores; install it with: "
                "pip install 'hmmoe[captions]'"
            )
        return super().dataset(split)

    def read(self, split: str, row: int) -> dict[str, Any]:
        item, caption = self.places[split][row]
        name, captions = self.captioned[split][item]
        text = captions[caption] if split == "train" else None
        return {**self.media(name), "text": text, "label": place(split, row)}

    def head(self, widths: Mapping[str, int]) -> NoReturn:
        raise ValueError(f"task {self.name!r} needs a model that writes, such as model: {{name: valor}}")

    def metrics(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Scores of what was written, word numbers (N, L)."""
        names, references = [], {}
        for number in labels.tolist():
            split, row = row_at(number)
            name, captions = self.captioned[split][self.places[split][row][0]]
            names.append(name)
            references[name] = captions
        return caption_scores(dict(zip(names, self.written(logits), strict=True)), references)

    def result(self, split: str, rows: Sequence[int], logits: Tensor) -> dict[str, str | bytes]:
        """What was written, as `[{"video_id", "caption"}]`."""
        names = [self.captioned[split][self.places[split][row][0]][0] for row in rows]
        found = [{"video_id": n, "caption": c} for n, c in zip(names, self.written(logits), strict=True)]
        return {f"{split}_captions.json": json.dumps(found)}

    def from_files(self, **inputs: str) -> dict[str, Any]:
        """As in the base, without a text: it is written."""
        return {**super().from_files(**inputs), "text": None}

    def show(self, row: Mapping[str, Any], logits: Tensor | None = None) -> dict[str, Any]:
        target = None
        if row["label"] is not None:
            split, number = row_at(row["label"])
            target = self.captioned[split][self.places[split][number][0]][1][0]
        return {
            "parts": [self.part(m, row[m]) for m in self.streams if row.get(m) is not None],
            "target": target,
            "prediction": None if logits is None else self.written(logits[None])[0],
        }

    def part(self, stream: str, data: Any) -> dict[str, Any]:
        """A stream of a row for `show`."""
        return part(stream, "text", data)


class VideoCaptions(VideoTask, Writing):
    """Captions of videos under the standard splits; references are the official file's where it is there."""

    options_type: ClassVar[type[Options]] = CaptionedOptions
    references_in: ClassVar = ("caption_annotation.json", "cap_anno.json")

    @cached_property
    def captioned(self) -> Captioned:
        root = self.folder()
        found = captioned_videos(self.data, root, "standard", self.options.select_on)
        file = next((root / name for name in self.references_in if (root / name).is_file()), None)
        if file is not None:
            references = read_captions(file)
            found["test"] = [(video, references.get(video, own)) for video, own in found["test"]]
        return found


class MSRVTTCaptions(VideoCaptions):
    """See the module."""

    name = "msrvtt_captions"
    streams: ClassVar = {"video": "image", "audio": "audio", "text": "text"}
    folded = ("video", "audio")
    data = MSRVTTSet()


class MSVDCaptions(VideoCaptions):
    """See the module."""

    name = "msvd_captions"
    streams: ClassVar = {"video": "image", "text": "text"}
    folded = ("video",)
    data = MSVDSet()


@dataclass
class Flickr8kCaptionsOptions(Options):
    photographs: int | None = field(
        default=None, metadata=about("first photographs of each split; all if empty", least=1)
    )
    captions: int | None = field(default=None, metadata=about("captions of each; all if empty", least=1))
    test_on: str = field(
        default="test",
        metadata=about(
            "test also validates and tests on photographs never seen, train on those trained on, which shows "
            "only that captions can be learned",
            choices=("test", "train"),
        ),
    )


class Flickr8kCaptions(Writing):
    """Captions of photographs, on the pack `flickr8k_1k`."""

    name = "flickr8k_captions"
    streams: ClassVar = {"image": "image", "text": "text"}
    options_type = Flickr8kCaptionsOptions

    @cached_property
    def tables(self) -> dict[str, Any]:
        return {split: table(self.folder() / f"{split}.parquet") for split in SPLITS}

    @cached_property
    def captioned(self) -> Captioned:
        options = self.options
        found = {}
        for split in SPLITS:
            source = "train" if options.test_on == "train" else split
            texts = [list(captions)[: options.captions] for captions in self.tables[source].captions]
            found[split] = [(f"{source}/{i}", t) for i, t in enumerate(texts[: options.photographs])]
        return found

    def media(self, item: str) -> dict[str, Any]:
        split, _, row = item.partition("/")
        q = self.tables[split].iloc[int(row)]
        return {"image": decode_image(q.image, f"image {q.image_id}")}

    def part(self, stream: str, data: Any) -> dict[str, Any]:
        return part(stream, "png", png(data)) if stream == "image" else super().part(stream, data)

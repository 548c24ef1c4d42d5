"""Questions about videos with open answers: MSRVTT-QA and MSVD-QA (Xu et al., ACM Multimedia 2017).

    chosen     logits over the 1,500 most frequent training answers
    written    a model that writes, such as `model: {name: valor}`, learns to write them and may write any;
               the numbers of its words (B, L) stand where other models have logits
    accuracy = answers given word for word / questions

Texts are compared in lower case without punctuation, as VALOR does. A training question whose answer is not
among the frequent ones is left out. Where answers are chosen, it counts as wrong in evaluations, and
`answerable` tells the share of questions that can be answered right.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from hmmoe.data.sets.video_text import Asked, MSRVTTSet, MSVDSet
from hmmoe.options import about
from hmmoe.tasks.items import ItemsHead
from hmmoe.tasks.places import place, row_at
from hmmoe.tasks.videos import HELD, VideoOptions, VideoTask


@dataclass
class VideoQAOptions(VideoOptions):
    answers: int = field(
        default=1500, metadata=about("most frequent training answers, to learn from", least=2)
    )
    answer: str = field(
        default="chosen",
        metadata=about(
            "chosen from the frequent answers by a head, or written word by word by a model that can (VALOR)",
            choices=("chosen", "written"),
        ),
    )


class VideoQA(VideoTask):
    """Frames, sound where there is some, and a question; the label is (answer or -1, the row's number)."""

    metric = "accuracy"
    options_type = VideoQAOptions

    def __init__(self, root: str | Path | None = None, **options: Any):
        super().__init__(root, **options)
        self.writes = "answers" if self.options.answer == "written" else None

    @cached_property
    def everything(self) -> dict[str, list[Asked]]:
        """Split -> all its questions."""
        questions = self.data.questions(self.folder())
        if not questions.get("validation"):
            videos = list(dict.fromkeys(asked.video for asked in questions["train"]))
            held = set(videos[-max(1, len(videos) // HELD) :])
            questions["validation"] = [asked for asked in questions["train"] if asked.video in held]
            questions["train"] = [asked for asked in questions["train"] if asked.video not in held]
        return questions

    @cached_property
    def answers(self) -> list[str]:
        """The most frequent answers: the head's columns."""
        counts = Counter(plain(asked.answer) for asked in self.everything["train"])
        return [answer for answer, _ in counts.most_common(self.options.answers)]

    @cached_property
    def columns(self) -> dict[str, int]:
        return {answer: column for column, answer in enumerate(self.answers)}

    @cached_property
    def questions(self) -> dict[str, list[Asked]]:
        """Split -> its rows."""
        known = [asked for asked in self.everything["train"] if plain(asked.answer) in self.columns]
        return {**self.everything, "train": known}

    def size(self, split: str) -> int:
        return len(self.questions[split])

    def read(self, split: str, row: int) -> dict[str, Any]:
        asked = self.questions[split][row]
        column = self.columns.get(plain(asked.answer), -1)
        return {
            **self.media(asked.video),
            "text": asked.question,
            "label": np.array([column, place(split, row)]),
        }

    def head(self, widths: Mapping[str, int]) -> nn.Module:
        """As in the base.

        Raises:
            ValueError: answers are to be written, which a head on streams cannot.
        """
        if self.writes:
            raise ValueError(
                f"task {self.name!r} with answer: written needs a model that writes, such as model: "
                "{name: valor}; give answer: chosen"
            )
        return ItemsHead(widths, len(self.answers), self.options.head)

    def given(self, logits: Tensor) -> list[str]:
        """The answers that a model gives, in words."""
        if self.writes:
            return self.written(logits)
        return [self.answers[column] for column in logits.argmax(-1).tolist()]

    def asked(self, number: int) -> Asked:
        """The question of a row's number, see `hmmoe.tasks.places`."""
        split, row = row_at(number)
        return self.questions[split][row]

    def metrics(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        if self.writes:
            answers = [self.asked(number).answer for number in labels[:, 1].tolist()]
            hits = [plain(a) == plain(b) for a, b in zip(self.given(logits), answers, strict=True)]
            return {"accuracy": 100 * sum(hits) / len(hits)}
        right = logits.argmax(-1) == labels[:, 0]
        return {
            "accuracy": 100 * right.double().mean().item(),
            "answerable": 100 * (labels[:, 0] >= 0).double().mean().item(),
        }

    def result(self, split: str, rows: Sequence[int], logits: Tensor) -> dict[str, str | bytes]:
        """The answers, as `[{"video_id", "question", "answer"}]`."""
        found = [
            {"video_id": asked.video, "question": asked.question, "answer": answer}
            for asked, answer in zip(
                (self.questions[split][row] for row in rows), self.given(logits), strict=True
            )
        ]
        return {f"{split}_answers.json": json.dumps(found)}

    def show(self, row: Mapping[str, Any], logits: Tensor | None = None) -> dict[str, Any]:
        target = None if row["label"] is None else self.asked(int(row["label"][1])).answer
        return {
            "parts": [self.part(m, row[m]) for m in self.streams if row.get(m) is not None],
            "target": target,
            "prediction": None if logits is None else self.given(logits[None])[0],
        }


class MSRVTTQA(VideoQA):
    """See the module; 158,581 training and 72,821 test questions."""

    name = "msrvtt_qa"
    streams: ClassVar = {"video": "image", "audio": "audio", "text": "text"}
    folded = ("video", "audio")
    data = MSRVTTSet()


class MSVDQA(VideoQA):
    """See the module; 30,933 training and 13,157 test questions, videos without sound."""

    name = "msvd_qa"
    streams: ClassVar = {"video": "image", "text": "text"}
    folded = ("video",)
    data = MSVDSet()


def plain(text: str) -> str:
    """Lower case, no punctuation, single spaces."""
    from hmmoe.backbones.valor.processing import clean

    return clean(text)

"""Audio-visual question answering on MUSIC-AVQA (Li et al., CVPR 2022): who plays, where and when.

A row holds `question_content`, whose words in angle brackets are slots, `templ_values`, a string of the
list that fills them in order, and `type`, a string of a pair such as `["Audio", "Counting"]`. A question is
14 tokens: its words without the closing question mark (some rows close with the full-width one), slots
filled, then padding.

    score of a type, a group (audio, visual, audio_visual) or all = right answers / questions in it

As a task: pictures and windows of sound spread over the video, and the question, to one of the answers of the
training questions, in order of first appearance (42 in the official data).
"""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from hmmoe.data.media import MediaError, png, wav
from hmmoe.data.sets.avqa import AVQASet, Question
from hmmoe.errors import unknown
from hmmoe.options import about
from hmmoe.tasks.avqa_head import GroundedHead
from hmmoe.tasks.base import Task, part
from hmmoe.tasks.items import ItemsHead
from hmmoe.tasks.places import place, row_at
from hmmoe.tasks.seconds import ClipsOptions, media_of, refuse_silence

LENGTH = 14
PAD = "<pad>"
TYPES = {
    "audio": ("counting", "comparative"),
    "visual": ("counting", "location"),
    "audio_visual": ("existential", "counting", "location", "comparative", "temporal"),
}


def fill_question(content: str, values: str | Sequence[str]) -> list[str]:
    """The 14 tokens of a question: words as written, slots filled in order, then `<pad>`.

    Args:
        content: `question_content` of a row.
        values: `templ_values` of a row, as the string it is there or as a list. A value stays one token.

    Raises:
        ValueError: values does not match the slots, or there are no words or more than 14.

    >>> fill_question("Is the <Object> playing?", '["ukulele"]')[:5]
    ['Is', 'the', 'ukulele', 'playing', '<pad>']
    """
    words = content.strip().rstrip("?？").split()
    if not 0 < len(words) <= LENGTH:
        raise ValueError(f"question_content {content!r} has {len(words)} words, it should have 1 to {LENGTH}")
    filling = _parsed("templ_values", values)
    slots = [slot for slot, word in enumerate(words) if "<" in word]
    if len(slots) != len(filling):
        raise ValueError(
            f"templ_values holds {len(filling)} values for the {len(slots)} slots of {content!r}, match them"
        )
    for slot, value in zip(slots, filling, strict=True):
        words[slot] = value
    return words + [PAD] * (LENGTH - len(words))


def question_type(text: str | Sequence[str]) -> tuple[str, str]:
    """The group and type of a row's `type`, as in `TYPES`.

    Raises:
        ValueError: it is none of the nine types.

    >>> question_type('["Audio-Visual", "Temporal"]')
    ('audio_visual', 'temporal')
    """
    pair = tuple(word.lower().replace("-", "_") for word in _parsed("type", text))
    known = [(group, kind) for group, kinds in TYPES.items() for kind in kinds]
    if pair not in known:
        raise ValueError(unknown("question type", " ".join(pair), [" ".join(k) for k in known]))
    return pair[0], pair[1]


def accuracy_by_type(right: Sequence[bool], types: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Accuracies in 0..1: `overall`, each group, and each type as `group/type`.

    A group or type without a question is left out.

    Args:
        right: whether each question was answered right.
        types: the `question_type` of each.

    Raises:
        ValueError: the lengths differ or there is no question.
    """
    if len(right) != len(types) or not len(right):
        raise ValueError(
            f"right has {len(right)} entries and types {len(types)}, give one of each per question"
        )
    answers: dict[str, list[bool]] = {}
    for correct, (group, kind) in zip(right, types, strict=True):
        for name in ("overall", group, f"{group}/{kind}"):
            answers.setdefault(name, []).append(bool(correct))
    order = ["overall"] + [n for g, kinds in TYPES.items() for n in (g, *(f"{g}/{kind}" for kind in kinds))]
    return {name: sum(answers[name]) / len(answers[name]) for name in order if name in answers}


def _parsed(name: str, values: str | Sequence[str]) -> list[str]:
    try:
        parsed = ast.literal_eval(values) if isinstance(values, str) else values
    except (SyntaxError, ValueError):
        parsed = None
    if not isinstance(parsed, (list, tuple)) or not all(isinstance(value, str) for value in parsed):
        raise ValueError(f"{name} is {values!r}, it should be a list of words such as '[\"cello\"]'")
    return list(parsed)


@dataclass
class AVQAOptions(ClipsOptions):
    head: str = field(
        default="grounded",
        metadata=about(
            "attention in space and time, or on normalised means", choices=("grounded", "linear", "mlp")
        ),
    )
    question: str = field(
        default="mean",
        metadata=about(
            "the grounded head's question: mean token, or an LSTM of its own", choices=("mean", "lstm")
        ),
    )
    channels: int = field(default=512, metadata=about("width of the grounded head", least=8))
    segments: int = field(default=10, metadata=about("pictures and windows of sound per video", least=1))
    window: float = field(default=1.0, metadata=about("seconds of each window of sound", above=0))


class AVQA(Task):
    """Pictures, sound and question; the label is the answer's number and the row's, see `places`."""

    name = "avqa"
    streams: ClassVar = {"video": "image", "audio": "audio", "text": "text"}
    folded = ("video", "audio")
    metric = "overall"
    options_type = AVQAOptions
    data: ClassVar = AVQASet()

    @cached_property
    def questions(self) -> dict[str, list[Question]]:
        """Split -> its questions."""
        return {split: self.data.questions(self.folder(), split) for split in ("train", "validation", "test")}

    @cached_property
    def answers(self) -> list[str]:
        """Of the training questions, in order of first appearance."""
        return list(dict.fromkeys(q.answer for q in self.questions["train"]))

    @cached_property
    def vocabulary(self) -> list[str]:
        """Words of the training questions in order of first appearance, after `<pad>`."""
        found = {PAD: None}
        for q in self.questions["train"]:
            found |= dict.fromkeys(fill_question(q.content, q.values))
        return list(found)

    def size(self, split: str) -> int:
        return len(self.questions[split])

    def read(self, split: str, row: int) -> dict[str, Any]:
        q, root, o = self.questions[split][row], self.folder(), self._chosen
        if q.answer not in self.answers:
            file = self.data.file(root, split)
            raise MediaError(f"question {q.number} of {file}: {unknown('answer', q.answer, self.answers)}")
        try:
            question_type(q.type)
            words = fill_question(q.content, q.values)
        except ValueError as error:
            raise MediaError(f"question {q.number} of {self.data.file(root, split)}: {error}") from error
        clip = self.data.clip(q.video, split)
        wave, rate = self.data.read_sound(root, clip)
        refuse_silence(self, clip, wave)
        return {
            "video": self.data.read_frames(root, clip, o.segments),
            "audio": windows(wave, rate, o.segments, o.window),
            "text": " ".join(word for word in words if word != PAD) + "?",
            "label": np.asarray([self.answers.index(q.answer), place(split, row)]),
        }

    def head(self, widths: Mapping[str, int]) -> nn.Module:
        o = self._chosen
        if o.head == "grounded":
            return GroundedHead(widths, len(self.answers), o.question, o.channels)
        return ItemsHead(widths, len(self.answers), o.head)

    def metrics(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        right = (logits.argmax(-1) == labels[:, 0]).tolist()
        types = [question_type(self._asked(number).type) for number in labels[:, 1].tolist()]
        return {name: 100 * share for name, share in accuracy_by_type(right, types).items()}

    def result(self, split: str, rows: Sequence[int], logits: Tensor) -> dict[str, str | bytes]:
        """question_id and answer of every question; the benchmark has no server and no form of its own."""
        found = [
            {"question_id": self.questions[split][row].number, "answer": self.answers[best]}
            for row, best in zip(rows, logits.argmax(-1).tolist(), strict=True)
        ]
        return {f"avqa_{split}_answers.json": json.dumps(found)}

    def from_files(self, **inputs: str) -> dict[str, Any]:
        """`video` is a video file or a folder of pictures, `audio` a sound file, `text` the question.

        Raises:
            ValueError: a stream that the task does not have.
            MediaError: a file that is missing or does not decode.
        """
        media = {k: v for k, v in inputs.items() if k in self.folded}
        row = super().from_files(**{k: v for k, v in inputs.items() if k not in media})
        return row | media_of(media, self._chosen.segments)

    def show(self, row: Mapping[str, Any], logits: Tensor | None = None) -> dict[str, Any]:
        strip = np.concatenate(list(row["video"]), axis=1)  # (H, T W, 3)
        wave, rate = np.concatenate([piece for piece, _ in row["audio"]]), row["audio"][0][1]
        return {
            "parts": [
                part("video", "png", png(strip)),
                part("audio", "wav", wav(wave, rate)),
                part("text", "text", row["text"]),
            ],
            "target": None if row["label"] is None else self.answers[row["label"][0]],
            "prediction": None if logits is None else self.answers[int(logits.argmax())],
        }

    def _asked(self, number: int) -> Question:
        split, row = row_at(number)
        return self.questions[split][row]

    @property
    def _chosen(self) -> AVQAOptions:
        assert isinstance(self.options, AVQAOptions)
        return self.options


def windows(wave: np.ndarray, rate: int, count: int, seconds: float) -> list[tuple[np.ndarray, int]]:
    """`count` pieces of that length, the first at the start, the last near the end; ended with silence.

    A waveform of exactly that length in all holds the pieces already, one after the other.
    """
    length = round(seconds * rate)
    if len(wave) == count * length:
        return [(piece, rate) for piece in wave.reshape(count, length)]
    last = max(len(wave) - round((seconds + 0.1) * rate), 0)  # the 0.1 s as in LAVISH
    starts = np.linspace(0, last, count, dtype=int)
    pieces = [wave[start : start + length] for start in starts]
    return [(np.pad(piece, (0, length - len(piece))), rate) for piece in pieces]

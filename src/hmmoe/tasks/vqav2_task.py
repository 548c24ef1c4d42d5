"""VQAv2 as a task: an image and a question to one of 3,129 answers, or as many as the annotations hold.

    p = sigmoid(W [s(image), s(text)]),  loss = Σ_answers BCE(p, target),  target from how many people say so

The answers are those that are the majority of at least nine questions of train2014 and val2014. A training
question none of whose answers is among them is left out, as in the training code of ViLT and VLMo; for
evaluation every question counts. The accuracy is the official one, see `hmmoe.tasks.vqav2`.
"""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hmmoe.data.media import decode_image, png
from hmmoe.options import about
from hmmoe.tasks.base import Options, Task, part
from hmmoe.tasks.heads import PooledHead
from hmmoe.tasks.places import place, row_at
from hmmoe.tasks.vqa_questions import Question, hold_out, image_file, read_questions
from hmmoe.tasks.vqav2 import TARGETS, build_vocabulary, summarise, vqa_accuracy

log = logging.getLogger(__name__)

HELD = 1000  # images held out for validation


@dataclass
class VQAv2Options(Options):
    test_set: str = field(
        default="val2014",
        metadata=about(
            "what is tested; val2014 trains on train2014, the two without public answers on val2014 as well",
            choices=("val2014", "test-dev2015", "test2015"),
        ),
    )
    least: int = field(
        default=9, metadata=about("questions of which an answer of the vocabulary is the majority", least=1)
    )


class VQAv2(Task):
    """Image and question; the label is the row's number and the columns of the ten answers, -1 for others.

    Validation is the last 1,000 images by number (a tenth of a smaller set) of what would be trained on.
    """

    name = "vqav2"
    streams: ClassVar = {"image": "image", "text": "text"}
    metric = "accuracy"
    options_type = VQAv2Options

    @cached_property
    def annotated(self) -> dict[str, list[Question]]:
        """All questions with public answers."""
        return {subset: read_questions(self.folder(), subset) for subset in ("train2014", "val2014")}

    @cached_property
    def answers(self) -> list[str]:
        """The vocabulary, in the order in which its answers first appear: the head's columns."""
        majorities = (q.annotation() for subset in self.annotated.values() for q in subset)
        return build_vocabulary(majorities, self.options.least)

    @cached_property
    def columns(self) -> dict[str, int]:
        return {answer: column for column, answer in enumerate(self.answers)}

    @cached_property
    def questions(self) -> dict[str, list[Question]]:
        """Split -> its questions."""
        test_set = self.options.test_set
        pool = list(self.annotated["train2014"])
        if test_set == "val2014":
            test = self.annotated["val2014"]
        else:
            pool += self.annotated["val2014"]
            test = read_questions(self.folder(), test_set)
        images = len({question.image for question in pool})
        train, validation = hold_out(pool, min(HELD, max(1, images // 10)))
        known = [q for q in train if any(answer in self.columns for answer in q.answers)]
        log.info("%d of %d training questions have an answer in the vocabulary", len(known), len(train))
        return {"train": known, "validation": validation, "test": test}

    def size(self, split: str) -> int:
        return len(self.questions[split])

    def read(self, split: str, row: int) -> dict[str, Any]:
        question = self.questions[split][row]
        answers = [self.columns.get(answer, -1) for answer in question.answers]
        file = image_file(self.folder(), question)
        return {
            "image": decode_image(file, f"{file} of question {question.number}"),
            "text": question.text,
            "label": np.asarray([place(split, row), *answers]) if answers else None,
        }

    def head(self, widths: Mapping[str, int]) -> nn.Module:
        return AnswersHead(widths, len(self.answers), self.options.head)

    def metrics(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """The official accuracy, overall and by the three types of answers."""
        annotations = []
        accuracies = []
        for number, column in zip(labels[:, 0].tolist(), logits.argmax(-1).tolist(), strict=True):
            split, row = row_at(number)
            annotation = self.questions[split][row].annotation()
            annotations.append(annotation)
            accuracies.append(vqa_accuracy(self.answers[column], annotation["answers"]))
        table = summarise(accuracies, annotations)
        return {"accuracy": table["overall"], **table["answer_type"]}

    def result(self, split: str, rows: Sequence[int], logits: Tensor) -> dict[str, str | bytes]:
        """The file that the evaluation server takes: question_id and answer of every question."""
        found = [
            {"question_id": self.questions[split][row].number, "answer": self.answers[column]}
            for row, column in zip(rows, logits.argmax(-1).tolist(), strict=True)
        ]
        subset = self.options.test_set if split == "test" else split
        return {f"vqav2_{subset}_results.json": json.dumps(found)}

    def show(self, row: Mapping[str, Any], logits: Tensor | None = None) -> dict[str, Any]:
        target = None
        if row["label"] is not None:
            split, number = row_at(row["label"][0])
            counts = Counter(self.questions[split][number].answers)
            target = ", ".join(f"{answer} ({count})" for answer, count in counts.most_common(3))
        return {
            "parts": [part("image", "png", png(row["image"])), part("text", "text", row["text"])],
            "target": target,
            "prediction": None if logits is None else self.answers[int(logits.argmax())],
        }


class AnswersHead(PooledHead):
    """Logits of all answers (B, A), several of which may be right."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy summed over the answers, mean over the batch.

        Args:
            logits: (B, A).
            labels: (B, 11), of each row its number and the columns of ten answers, -1 for one that is none.
        """
        targets = people_targets(labels[:, 1:], logits.shape[-1])
        return F.binary_cross_entropy_with_logits(logits.float(), targets) * logits.shape[-1]


def people_targets(columns: Tensor, answers: int) -> Tensor:
    """Soft targets (B, answers) from what each of ten people answered; as `vqav2.soft_targets`, for a batch.

    Args:
        columns: (B, 10), -1 for an answer outside the vocabulary.
        answers: size of the vocabulary.
    """
    counts = columns.new_zeros(len(columns), answers + 1)
    outside = torch.where(columns < 0, answers, columns)
    counts.scatter_add_(1, outside, torch.ones_like(columns))
    return torch.tensor(TARGETS, device=columns.device)[counts[:, :-1].clamp(max=4)]

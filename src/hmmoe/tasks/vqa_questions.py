"""The official files of VQAv2, read once into one compact row per question.

v2_OpenEnded_mscoco_{train2014,val2014,test2015,test-dev2015}_questions.json  image, question and its number
v2_mscoco_{train2014,val2014}_annotations.json                                what ten people answered
train2014/COCO_train2014_000000000009.jpg                                     at the root or below it
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hmmoe.data.entries import read_json, take
from hmmoe.data.media import MediaError
from hmmoe.data.sets.base import find_file

PEOPLE = 10
INSIDE = ("", "vqav2", "VQAv2", "annotations", "questions", "images", "coco", "mscoco")  # where people unpack


class Question(NamedTuple):
    """One question; what comes of the annotation is empty where there is none.

    Attributes:
        number: the official question_id.
        image: the official image_id.
        subset: the COCO subset whose folder holds the image.
        text: the question.
        answers: the ten answers as people gave them, in the order of their answer_id.
        majority: the annotation's multiple_choice_answer, which the vocabulary counts.
    """

    number: int
    image: int
    subset: str
    text: str
    answers: tuple[str, ...] = ()
    answer_type: str = ""
    question_type: str = ""
    majority: str = ""

    def annotation(self) -> dict[str, Any]:
        """The parts of the official annotation that accuracies are computed from."""
        answers = [{"answer": text, "answer_id": i} for i, text in enumerate(self.answers, 1)]
        return {
            "answers": answers,
            "answer_type": self.answer_type,
            "question_type": self.question_type,
            "multiple_choice_answer": self.majority,
        }


def read_questions(root: Path, subset: str) -> list[Question]:
    """The questions of train2014, val2014, test2015 or test-dev2015, sorted by image and number.

    Raises:
        FileNotFoundError: a file is not there.
        MediaError: a file is not as the official ones are: a question without image, twice, or without
            annotation, an annotation without ten answers. The first such question is named.
    """
    file = find_file(root, "the questions", [f"v2_OpenEnded_mscoco_{subset}_questions.json"], INSIDE)
    images = subset.replace("-dev", "")  # test-dev2015 asks about images of test2015
    annotations = {} if subset.startswith("test") else _annotations(root, subset)
    questions: dict[int, Question] = {}
    for entry in take(read_json(file), ["questions"], str(file))[0]:
        (number,) = take(entry, ["question_id"], f"a question in {file}")
        image, text = take(entry, ["image_id", "question"], f"question {number} in {file}")
        if not isinstance(image, int):
            raise MediaError(f"question {number} in {file} has no image: its image_id is {image!r}")
        if number in questions:
            raise MediaError(f"question {number} is twice in {file}")
        if not subset.startswith("test") and number not in annotations:
            raise MediaError(f"question {number} in {file} has no annotation")
        questions[number] = Question(number, image, images, text, *annotations.pop(number, ()))
    if annotations:
        raise MediaError(f"question {min(annotations)} is annotated, but is not in {file}")
    if not questions:
        raise MediaError(f"there are no questions in {file}")
    return sorted(questions.values(), key=lambda question: (question.image, question.number))


def _annotations(root: Path, subset: str) -> dict[int, tuple[tuple[str, ...], str, str, str]]:
    """Question number -> answers, answer type, question type, majority answer."""
    file = find_file(root, "the answers", [f"v2_mscoco_{subset}_annotations.json"], INSIDE)
    found = {}
    for entry in take(read_json(file), ["annotations"], str(file))[0]:
        (number,) = take(entry, ["question_id"], f"an annotation in {file}")
        where = f"the annotation of question {number} in {file}"
        kinds = ["answers", "answer_type", "question_type", "multiple_choice_answer"]
        answers, answer_type, question_type, majority = take(entry, kinds, where)
        if len(answers) != PEOPLE:
            raise MediaError(f"{where} has {len(answers)} answers, it should have {PEOPLE}")
        # Interned, since the same few thousand texts are given millions of times.
        texts = tuple(sys.intern(str(take(answer, ["answer"], where)[0])) for answer in answers)
        found[number] = (texts, sys.intern(answer_type), sys.intern(question_type), sys.intern(majority))
    return found


def image_file(root: Path, question: Question) -> Path:
    """Where the image of a question is, or would be."""
    name = f"COCO_{question.subset}_{question.image:012d}.jpg"
    folders = (root / folder / question.subset for folder in INSIDE)
    return next((folder for folder in folders if folder.is_dir()), root / question.subset) / name


def hold_out(questions: Sequence[Question], images: int) -> tuple[list[Question], list[Question]]:
    """The questions without those of the last `images` images, and these."""
    last = set(sorted({question.image for question in questions})[-images:])
    return (
        [question for question in questions if question.image not in last],
        [question for question in questions if question.image in last],
    )

"""Visual question answering on VQAv2 (Goyal et al., CVPR 2017): ten people answer, and a system should agree.

    accuracy   mean over the ten answers i of min(1, m_i / 3), m_i = matches among the answers other than i
    target     of an answer given by 1, 2, 3, 4 or more of the ten: .3, .6, .9, 1

The accuracy is that of the public evaluation code, quirks included, since published numbers are made by it:
- texts are normalised only where the ten answers are not all the same;
- "other than i" drops every annotation that equals number i as a whole, so that without distinct `answer_id`s
  equal answers all drop out together;
- only the first 32 full stops of a text can be deleted;
- contractions are looked up in lower case, so that the capitalised entries of the table never apply.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": "0"} | {word: str(value) for value, word in enumerate(DIGITS)}
ARTICLES = ("a", "an", "the")
TARGETS = (0.0, 0.3, 0.6, 0.9, 1.0)


def vqa_accuracy(prediction: str, answers: Sequence[Mapping[str, Any]]) -> float:
    """How far a prediction agrees with the people asked, in 0..1.

    Args:
        prediction: the predicted answer.
        answers: the annotation's `answers`: ten mappings with `answer` and a distinct `answer_id`.

    Raises:
        ValueError: there are no answers, one has no `answer`, or a text is not a string.
    """
    texts = [_tidy(text) for text in _texts(answers)]
    prediction = _tidy(_text("prediction", prediction))
    if len(set(texts)) > 1:
        texts, prediction = [normalise(text) for text in texts], normalise(prediction)
    people = [{**answer, "answer": text} for answer, text in zip(answers, texts, strict=True)]
    agreed = [person for person in people if person["answer"] == prediction]
    return sum(min(1.0, sum(other != person for other in agreed) / 3) for person in people) / len(people)


@lru_cache(maxsize=1 << 16)  # the same few thousand answers come back for every question
def normalise(text: str) -> str:
    """An answer as the official comparison sees it: punctuation, case, number words, articles, contractions.

    >>> normalise("The two dogs, isnt it?")
    "2 dogs isn't it"
    """
    glue = re.search(r"\d,\d", text) is not None
    out = text
    for mark in PUNCTUATION:
        # Whether a mark is deleted or becomes a space is read off the whole text as it came.
        out = out.replace(mark, "" if glue or f"{mark} " in text or f" {mark}" in text else " ")
    out = re.sub(r"\.(?!\d)", "", out, count=32)
    words = (NUMBERS.get(word, word) for word in out.lower().split())
    return " ".join(_contractions().get(word, word) for word in words if word not in ARTICLES)


def build_vocabulary(annotations: Iterable[Mapping[str, Any]], minimum: int = 9) -> list[str]:
    """The answers a classifier chooses from: normalised majority answers that occur often enough.

    Args:
        annotations: those of train2014 and then val2014; their `multiple_choice_answer` is counted.
        minimum: least number of questions; 9 gives the 3,129 answers of the literature.

    Returns:
        The answers in the order in which they first appear.

    Raises:
        ValueError: no answer occurs that often.
    """
    counts = Counter(normalise(annotation["multiple_choice_answer"]) for annotation in annotations)
    vocabulary = [answer for answer, count in counts.items() if count >= minimum]
    if not vocabulary:
        raise ValueError(f"minimum={minimum} leaves no answer, lower it or give more annotations")
    return vocabulary


def soft_targets(answers: Sequence[Mapping[str, Any]], vocabulary: Mapping[str, int]) -> Tensor:
    """Targets (len(vocabulary),) of one question for binary cross-entropy, from how many people gave each
    answer.

    Answers are looked up as written, as in the training code of ViLT and VLMo; those outside the vocabulary
    are left out, and a question whose answers all are has the target 0 (they do not train on such
    questions).

    Args:
        answers: the annotation's `answers`.
        vocabulary: answer -> column.
    """
    target = torch.zeros(len(vocabulary))
    for text, count in Counter(_texts(answers)).items():
        if text in vocabulary:
            target[vocabulary[text]] = TARGETS[min(count, 4)]
    return target


def summarise(accuracies: Sequence[float], annotations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The official table: means in percent with two decimals, overall and per type.

    Args:
        accuracies: `vqa_accuracy` of each question.
        annotations: its annotation each, with `answer_type` and `question_type`.

    Returns:
        `{"overall": 71.23, "answer_type": {"yes/no": ...}, "question_type": {"what color": ...}}`

    Raises:
        ValueError: the lengths differ or there is no question.
    """
    if len(accuracies) != len(annotations) or not len(accuracies):
        raise ValueError(
            f"accuracies has {len(accuracies)} entries and annotations {len(annotations)}, "
            "give one of each per question"
        )
    kinds: dict[str, dict[str, list[float]]] = {"answer_type": {}, "question_type": {}}
    for accuracy, annotation in zip(accuracies, annotations, strict=True):
        for kind, groups in kinds.items():
            groups.setdefault(annotation[kind], []).append(accuracy)
    table: dict[str, Any] = {"overall": _percent(accuracies)}
    for kind, groups in kinds.items():
        table[kind] = {name: _percent(values) for name, values in groups.items()}
    return table


def _percent(values: Sequence[float]) -> float:
    return round(100 * sum(values) / len(values), 2)


def _tidy(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _texts(answers: Sequence[Mapping[str, Any]]) -> list[str]:
    if not len(answers) or not all(isinstance(answer, Mapping) and "answer" in answer for answer in answers):
        raise ValueError("answers should be the annotation's list of mappings, each with the key 'answer'")
    return [_text("answer", answer["answer"]) for answer in answers]


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}, it should be a string")
    return value


@cache
def _contractions() -> dict[str, str]:
    return json.loads(files("hmmoe.tasks").joinpath("vqa_contractions.json").read_text(encoding="utf-8"))

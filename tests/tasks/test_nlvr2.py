"""NLVR2 accuracy and consistency on hand-written groups and against a slow count."""

import random

import pytest
import torch

from hmmoe.tasks.nlvr2 import group_of, nlvr2_scores

NAMES = ["dev-1-0-0", "dev-1-1-0", "dev-1-0-1", "dev-1-1-1", "test1-1-0-0"]


def test_a_group_is_one_sentence_over_its_pairs():
    # Sentence 0 of set 1 is wrong on one of its two pairs; sentence 1 and the other split are right.
    scores = nlvr2_scores([True, True, False, True, True], [True, False, False, True, True], NAMES)
    assert scores == {"accuracy": 4 / 5, "consistency": 2 / 3}


def test_equal_to_a_slow_count():
    chance = random.Random(1)
    names = [f"train-{s}-{p}-{k}" for s in range(20) for p in range(3) for k in range(2)]
    chance.shuffle(names)
    labels = [chance.random() < 0.5 for _ in names]
    predictions = [label if chance.random() < 0.8 else not label for label in labels]
    whole = 0
    for s in range(20):
        for k in range(2):
            rows = [names.index(f"train-{s}-{p}-{k}") for p in range(3)]
            whole += all(predictions[row] == labels[row] for row in rows)
    scores = nlvr2_scores(predictions, labels, names)
    assert scores["consistency"] == whole / 40
    assert scores["accuracy"] == sum(p == t for p, t in zip(predictions, labels, strict=True)) / len(names)


def test_tensors_and_numbers_serve_as_judgements():
    scores = nlvr2_scores(torch.tensor([1, 0, 1, 1, 0]), [1, 0, 1, 1, 0], NAMES)
    assert scores == {"accuracy": 1.0, "consistency": 1.0}


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="predictions should hold true or false"):
        nlvr2_scores(["True", "False"], [True, False], NAMES[:2])
    with pytest.raises(ValueError, match="labels should hold true or false"):
        nlvr2_scores([0, 1], [0, 2], NAMES[:2])
    with pytest.raises(ValueError, match=r"have 1, 1 and 2 entries"):
        nlvr2_scores([True], [True], NAMES[:2])
    with pytest.raises(ValueError, match="holds 'dev-1-0-0' 2 times"):
        nlvr2_scores([True, True], [True, True], NAMES[:1] * 2)
    with pytest.raises(ValueError, match="'dev-1-0' should read split-set-pair-sentence"):
        group_of("dev-1-0")

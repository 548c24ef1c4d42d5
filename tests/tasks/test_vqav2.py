"""VQA accuracy against a literal reading of its definition and cases worked out by hand."""

import random
import re
from copy import deepcopy

import pytest
import torch

from hmmoe.tasks.vqav2 import (
    _contractions,
    build_vocabulary,
    normalise,
    soft_targets,
    summarise,
    vqa_accuracy,
)


def people(*texts):
    """Annotation dicts; `people("yes", 3, "no", 7)` gives ten."""
    answers = [t for text, count in zip(texts[::2], texts[1::2], strict=True) for t in [text] * count]
    return [
        {"answer": text, "answer_confidence": "yes", "answer_id": number}
        for number, text in enumerate(answers, start=1)
    ]


def slow_normalise(text):
    """Step by step, each rule on its own pass."""
    out = text
    for p in [
        ";",
        "/",
        "[",
        "]",
        '"',
        "{",
        "}",
        "(",
        ")",
        "=",
        "+",
        "\\",
        "_",
        "-",
        ">",
        "<",
        "@",
        "`",
        ",",
        "?",
        "!",
    ]:
        beside_space = any(text[i : i + 2] in (p + " ", " " + p) for i in range(len(text)))
        digit_comma_digit = any(
            text[i].isdigit() and text[i + 1] == "," and text[i + 2].isdigit() for i in range(len(text) - 2)
        )
        out = "".join(("" if beside_space or digit_comma_digit else " ") if c == p else c for c in out)
    stops, kept = 0, []
    for i, c in enumerate(out):
        if c == "." and not out[i + 1 : i + 2].isdigit() and stops < 32:
            stops += 1
        else:
            kept.append(c)
    words = []
    for word in "".join(kept).lower().split():
        if word in ("zero", "none"):
            word = "0"
        names = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
        if word in names:
            word = str(names.index(word) + 1)
        if word not in ("a", "an", "the"):
            words.append(word)
    return " ".join(_contractions().get(word, word) for word in words)


def slow_accuracy(prediction, answers):
    answers = deepcopy(answers)
    for answer in answers:
        answer["answer"] = re.sub("[\n\t]", " ", answer["answer"]).strip()
    prediction = re.sub("[\n\t]", " ", prediction).strip()
    if any(answer["answer"] != answers[0]["answer"] for answer in answers):
        prediction = slow_normalise(prediction)
        for answer in answers:
            answer["answer"] = slow_normalise(answer["answer"])
    scores = []
    for answer in answers:
        others = [other for other in answers if other != answer]
        scores.append(min(1, len([other for other in others if other["answer"] == prediction]) / 3))
    return sum(scores) / len(scores)


@pytest.mark.parametrize(("agreeing", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_accuracy_by_number_of_people_who_agree(agreeing, accuracy):
    # n of ten agree: n of them see n - 1 others, the rest see n; so n / 10 * min(1, (n - 1) / 3) + ...
    assert vqa_accuracy("red", people("red", agreeing, "blue", 10 - agreeing)) == pytest.approx(accuracy)


def test_texts_are_normalised_only_where_people_differ():
    same = people("the dog", 10)
    assert vqa_accuracy("dog", same) == 0.0
    assert vqa_accuracy(" the\tdog\n", same) == 1.0
    assert vqa_accuracy("A dog.", people("the dog", 9, "cat", 1)) == 1.0


def test_annotations_without_ids_drop_out_together():
    answers = [{"answer": "yes"} for _ in range(9)] + [{"answer": "no"}]
    # Nobody who said yes sees another yes; the one who said no sees nine.
    assert vqa_accuracy("yes", answers) == pytest.approx(0.1)
    assert vqa_accuracy("yes", people("yes", 9, "no", 1)) == 1.0


def test_the_annotations_are_left_as_they_are():
    answers = people("The dog", 5, "a cat", 5)
    before = deepcopy(answers)
    vqa_accuracy("dog", answers)
    assert answers == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Two", "2"),
        ("none", "0"),
        ("the man's a cat", "man's cat"),
        ("dont", "don't"),
        ("Im", "im"),  # the table has "Im", which lower case never meets
        ("ive", "ive"),
        ("somebody'd", "somebodyd"),
        ("10,000", "10000"),
        ("red,green", "red green"),
        ("red, green", "red green"),
        ("red/green -blue", "red green blue"),
        ("t-shirt", "t shirt"),
        ("1,000 t-shirt", "1000 tshirt"),  # a comma between digits deletes every mark
        ("3.5 p.m.", "3.5 pm"),
        ("4:30", "4:30"),
        ("." * 40 + "x", "." * 8 + "x"),  # at most 32 full stops go
        ("", ""),
    ],
)
def test_normalisation(text, expected):
    assert normalise(text) == expected
    assert slow_normalise(text) == expected


def test_equal_to_the_slow_reference_on_random_answers():
    chance = random.Random(0)
    words = [
        "the",
        "a",
        "Two",
        "none",
        "dont",
        "Im",
        "dog",
        "t-shirt",
        "1,000",
        "p.m.",
        "?",
        "-",
        "red/blue",
        "\t",
        ";",
    ]
    pool = [" ".join(chance.choices(words, k=chance.randint(1, 3))) for _ in range(30)]
    for _ in range(300):
        few = chance.sample(pool, 3)
        answers = people(*(x for text in chance.choices(few, k=10) for x in (text, 1)))
        prediction = chance.choice(few).upper()
        assert vqa_accuracy(prediction, answers) == pytest.approx(slow_accuracy(prediction, answers))


def test_the_contraction_table_is_whole():
    assert len(_contractions()) == 120


def test_vocabulary_counts_normalised_majority_answers_in_order():
    majority = ["two"] * 4 + ["dog"] * 9 + ["2"] * 5 + ["cat"] * 8 + ["a dog"]
    annotations = [{"multiple_choice_answer": answer} for answer in majority]
    assert build_vocabulary(annotations) == ["2", "dog"]
    assert build_vocabulary(annotations, minimum=8) == ["2", "dog", "cat"]
    with pytest.raises(ValueError, match="minimum=11 leaves no answer"):
        build_vocabulary(annotations, minimum=11)


def test_soft_targets_by_count():
    answers = people("a", 1, "b", 2, "c", 3, "d", 4)
    vocabulary = {"d": 0, "c": 1, "b": 2, "a": 3, "e": 4}
    torch.testing.assert_close(soft_targets(answers, vocabulary), torch.tensor([1.0, 0.9, 0.6, 0.3, 0.0]))
    assert soft_targets(people("never seen", 10), vocabulary).sum() == 0


def test_summary_is_in_percent_per_type():
    annotations = [
        {"answer_type": "yes/no", "question_type": "is the"},
        {"answer_type": "yes/no", "question_type": "is this"},
        {"answer_type": "other", "question_type": "is the"},
    ]
    assert summarise([1.0, 0.3, 0.6], annotations) == {
        "overall": 63.33,
        "answer_type": {"yes/no": 65.0, "other": 60.0},
        "question_type": {"is the": 80.0, "is this": 30.0},
    }


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="list of mappings"):
        vqa_accuracy("yes", [])
    with pytest.raises(ValueError, match="list of mappings"):
        vqa_accuracy("yes", ["yes"] * 10)
    with pytest.raises(ValueError, match="prediction is 3, it should be a string"):
        vqa_accuracy(3, people("yes", 10))
    with pytest.raises(ValueError, match="accuracies has 1 entries and annotations 0"):
        summarise([1.0], [])

"""MUSIC-AVQA question filling and accuracy groups, on questions in the forms that the official files hold."""

import pytest

from hmmoe.tasks.avqa import TYPES, accuracy_by_type, fill_question, question_type


@pytest.mark.parametrize(
    ("content", "values", "words"),
    [
        ("Is the <Object> in the video?", '["ukulele"]', "Is the ukulele in the video"),
        ("How many sounding <Object>？", '["electric_bass"]', "How many sounding electric_bass"),
        ("Is the <Object> left of the <Object>? ", ["flute", "pipa"], "Is the flute left of the pipa"),
        (
            "Is the instrument on the <LR> more rhythmic than the instrument on the <RL>?",
            "['left', 'right']",
            "Is the instrument on the left more rhythmic than the instrument on the right",
        ),
        ("How many instruments were heard?", "[]", "How many instruments were heard"),
    ],
)
def test_questions_are_filled_and_padded_to_fourteen(content, values, words):
    expected = words.split()
    assert fill_question(content, values) == expected + ["<pad>"] * (14 - len(expected))


@pytest.mark.parametrize(
    ("content", "values", "message"),
    [
        ("Is the <Object> playing?", "[]", "holds 0 values for the 1 slots"),
        ("Is it playing?", '["flute"]', "holds 1 values for the 0 slots"),
        ("Is the <Object> playing?", "flute", "templ_values is 'flute'"),
        ("Is the <Object> playing?", "[3]", r"templ_values is '\[3\]'"),
        ("?", "[]", "has 0 words"),
        ("word " * 15 + "?", "[]", "has 15 words, it should have 1 to 14"),
    ],
)
def test_questions_that_do_not_fit_are_named(content, values, message):
    with pytest.raises(ValueError, match=message):
        fill_question(content, values)


def test_types_are_read_from_the_official_strings():
    for group, kinds in TYPES.items():
        for kind in kinds:
            text = f'["{group.replace("_", "-").title()}", "{kind.title()}"]'
            assert question_type(text) == (group, kind)


def test_an_unknown_type_suggests_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'visual location'"):
        question_type('["Visual", "Locations"]')
    with pytest.raises(ValueError, match="unknown question type 'audio temporal'"):
        question_type('["Audio", "Temporal"]')


def test_groups_pool_questions_not_types():
    types = [("audio", "counting")] * 3 + [("audio", "comparative")] + [("audio_visual", "temporal")] * 2
    right = [True, True, True, False, False, True]
    scores = accuracy_by_type(right, types)
    assert scores == {
        "overall": 4 / 6,
        "audio": 3 / 4,  # the mean of the two types would be 1/2
        "audio/counting": 1.0,
        "audio/comparative": 0.0,
        "audio_visual": 1 / 2,
        "audio_visual/temporal": 1 / 2,
    }


def test_official_test_counts_weigh_the_groups():
    # Question counts per type of the official test file; answering one type only gives its share.
    counts = {
        ("audio", "counting"): 1022,
        ("audio", "comparative"): 601,
        ("visual", "counting"): 1199,
        ("visual", "location"): 1228,
        ("audio_visual", "existential"): 995,
        ("audio_visual", "counting"): 1274,
        ("audio_visual", "location"): 927,
        ("audio_visual", "comparative"): 1115,
        ("audio_visual", "temporal"): 824,
    }
    types = [pair for pair, number in counts.items() for _ in range(number)]
    scores = accuracy_by_type([pair[1] == "counting" for pair in types], types)
    assert scores["overall"] == (1022 + 1199 + 1274) / 9185
    assert scores["audio"] == 1022 / (1022 + 601)
    assert scores["visual"] == 1199 / (1199 + 1228)
    assert scores["audio_visual"] == 1274 / 5135


def test_wrong_lengths_are_named():
    with pytest.raises(ValueError, match="right has 2 entries and types 1"):
        accuracy_by_type([True, False], [("audio", "counting")])
    with pytest.raises(ValueError, match="one of each per question"):
        accuracy_by_type([], [])

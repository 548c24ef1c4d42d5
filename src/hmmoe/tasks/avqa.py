"""Audio-visual question answering on MUSIC-AVQA (Li et al., CVPR 2022): who plays, where and when.

A row holds `question_content`, whose words in angle brackets are slots, `templ_values`, a string of the
list that fills them in order, and `type`, a string of a pair such as `["Audio", "Counting"]`. A question is
14 tokens: its words without the closing question mark (some rows close with the full-width one), slots
filled, then padding.

    score of a type, a group (audio, visual, audio_visual) or all = right answers / questions in it
"""

import ast
from collections.abc import Sequence

from hmmoe.errors import unknown

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
    slots = [place for place, word in enumerate(words) if "<" in word]
    if len(slots) != len(filling):
        raise ValueError(
            f"templ_values holds {len(filling)} values for the {len(slots)} slots of {content!r}, match them"
        )
    for place, value in zip(slots, filling, strict=True):
        words[place] = value
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

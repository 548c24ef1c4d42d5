"""Caption scores against slow readings of BLEU-4, ROUGE-L and CIDEr; without Java; METEOR (slow)."""

import logging
import math
from collections import Counter

import pytest

from hmmoe.tasks import captions
from hmmoe.tasks.captions import caption_scores

REFERENCES = {
    "a": ["A brown dog runs over the grass.", "The dog is running on green grass", "a dog runs"],
    "b": ["Two men talk to each other.", "two men are talking on the street"],
    "c": ["A cat isn't sleeping on the mat!", "the cat sits on the old mat"],
}
PREDICTIONS = {
    "c": "the cat sits on a mat, today",
    "a": "a brown dog runs over grass",
    "b": "two men are talking to the street",
}


@pytest.fixture
def _scorers():
    pytest.importorskip("pycocoevalcap", reason="needs the optional package pycocoevalcap")


@pytest.fixture
def _no_java(monkeypatch):
    monkeypatch.setattr(captions, "_has_java", lambda: False)


@pytest.fixture
def _java():
    if not captions._has_java():
        pytest.skip("needs a Java runtime")


def words(text):
    return "".join(c for c in text.lower().replace("isn't", "is n't") if c.isalnum() or c in " '").split()


def grams(tokens, n):
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def slow_bleu4(said, meant):
    matched, total, length, target = [0] * 4, [0] * 4, 0, 0
    for name, tokens in said.items():
        length += len(tokens)
        target += min((len(r) for r in meant[name]), key=lambda size: (abs(size - len(tokens)), size))
        for n in range(1, 5):
            mine, theirs = grams(tokens, n), [grams(r, n) for r in meant[name]]
            matched[n - 1] += sum(min(k, max(t[g] for t in theirs)) for g, k in mine.items())
            total[n - 1] += sum(mine.values())
    precision = math.prod(m / t for m, t in zip(matched, total, strict=True)) ** 0.25
    return precision * min(1.0, math.exp(1 - target / length))


def slow_rouge(said, meant):
    def common(one, two):
        if not one or not two:
            return 0
        if one[-1] == two[-1]:
            return 1 + common(one[:-1], two[:-1])
        return max(common(one[:-1], two), common(one, two[:-1]))

    scores = []
    for name, tokens in said.items():
        lengths = [(common(tokens, r), len(r)) for r in meant[name]]
        p, r = max(k for k, _ in lengths) / len(tokens), max(k / size for k, size in lengths)
        scores.append((1 + 1.2**2) * p * r / (r + 1.2**2 * p) if p and r else 0.0)
    return sum(scores) / len(scores)


def slow_cider(said, meant):
    seen = Counter(
        g for refs in meant.values() for n in range(1, 5) for g in set().union(*(grams(r, n) for r in refs))
    )

    def weighed(tokens, n):
        return {
            g: k * (math.log(len(meant)) - math.log(max(1, seen[g]))) for g, k in grams(tokens, n).items()
        }

    def norm(vector):
        return math.sqrt(sum(v * v for v in vector.values()))

    scores = []
    for name, tokens in said.items():
        for reference in meant[name]:
            for n in range(1, 5):
                mine, theirs = weighed(tokens, n), weighed(reference, n)
                dot = sum(min(v, theirs.get(g, 0)) * theirs.get(g, 0) for g, v in mine.items())
                size = norm(mine) * norm(theirs)
                penalty = math.exp(-((len(tokens) - len(reference)) ** 2) / (2 * 6**2))
                scores.append(((dot / size if size else 0) * penalty, len(meant[name])))
    return 10 * sum(score / count for score, count in scores) / 4 / len(said)


@pytest.mark.usefixtures("_scorers", "_no_java")
def test_scores_equal_the_slow_references():
    said = {name: words(text) for name, text in PREDICTIONS.items()}
    meant = {name: [words(text) for text in texts] for name, texts in REFERENCES.items()}
    expected = {
        "bleu4": slow_bleu4(said, meant),
        "rouge_l": slow_rouge(said, meant),
        "cider": slow_cider(said, meant),
    }
    assert caption_scores(PREDICTIONS, REFERENCES) == pytest.approx(expected, abs=1e-6)
    assert min(expected.values()) > 0.2  # so that the comparison says something


@pytest.mark.usefixtures("_scorers", "_no_java")
def test_without_java_meteor_is_left_out_and_it_is_said(caplog, capsys):
    with caplog.at_level(logging.WARNING):
        scores = caption_scores(PREDICTIONS, REFERENCES)
    assert set(scores) == {"bleu4", "rouge_l", "cider"}
    assert "METEOR is left out" in caplog.text
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("_scorers", "_no_java")
def test_empty_captions_score_nothing():
    scores = caption_scores(dict.fromkeys(REFERENCES, " "), REFERENCES)
    assert scores == pytest.approx({"bleu4": 0.0, "rouge_l": 0.0, "cider": 0.0}, abs=1e-6)


@pytest.mark.usefixtures("_scorers", "_java")
def test_the_imitated_tokens_are_those_of_the_treebank():
    texts = [
        "A dog's ball, 1,000 times!",
        "It isn't (his) t-shirt; they've a $5 one.",
        "",
        "two\r\nlines\u2028three",
        "",
    ]
    samples = {str(number): [text, *REFERENCES["c"]] for number, text in enumerate(texts)}
    imitated = captions._imitation(samples)
    for name, lines in captions._penn_treebank(samples).items():
        # Brackets become -lrb- and -rrb- in the treebank; the imitation drops them.
        assert [line.replace("-lrb- ", "").replace("-rrb- ", "") for line in lines] == imitated[name]


@pytest.mark.slow
@pytest.mark.usefixtures("_scorers", "_java")
def test_meteor_with_java():
    same = {name: texts[0] for name, texts in REFERENCES.items()}
    perfect, scores = caption_scores(same, REFERENCES), caption_scores(PREDICTIONS, REFERENCES)
    assert perfect["meteor"] == pytest.approx(1.0, abs=1e-6)
    assert 0.2 < scores["meteor"] < 0.9


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="predictions is empty"):
        caption_scores({}, {})
    with pytest.raises(ValueError, match="id 'b' is only in references"):
        caption_scores({"a": "x"}, {"a": ["x"], "b": ["y"]})
    with pytest.raises(ValueError, match="id 'b' is only in predictions"):
        caption_scores({"a": "x", "b": "y"}, {"a": ["x"]})
    for bad in ("x", []):
        with pytest.raises(ValueError, match=r"references\['a'\] is .*list of at least one caption"):
            caption_scores({"a": "x"}, {"a": bad})

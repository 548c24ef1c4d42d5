"""Video parsing scores against published-code values, a slow reading of the definition, and cases by hand."""

from fractions import Fraction

import numpy as np
import pytest

from hmmoe.tasks.avvp import CLASSES, mean_scores, parsing_scores

GOLDEN = {  # printed by the evaluation code of the AVVP benchmark on the tables of `golden_tables`
    "segment": {"audio": 0.1893188, "visual": 0.1071429, "event": 0.1522529, "audio_visual": 0.0714286},
    "event": {"audio": 0.1696429, "visual": 0.0880000, "event": 0.1253968, "audio_visual": 0.0714286},
}


def golden_tables():
    random = np.random.RandomState(0)
    return [random.rand(25, 10) > 0.8 for _ in range(4)]


def empty():
    return np.zeros((25, 10))


def row(text, klass=3):
    """A table with one class, one character a second: '#' is positive."""
    table = empty()
    table[klass] = [c == "#" for c in text]
    return table


def slow_scores(pa, pv, ta, tv):
    """The definition, second by second and event by event, in exact fractions."""

    def events(seconds):
        found, start = [], None
        for t in range(11):
            on = t < 10 and bool(seconds[t])
            if on and start is None:
                start = t
            if not on and start is not None:
                found.append(set(range(start, t)))
                start = None
        return found

    def meets(e, others):
        return any(Fraction(len(e & o), len(e | o)) >= Fraction(1, 2) for o in others)

    def count(level, pred, true):
        if level == "segment":
            pairs = [(bool(p), bool(t)) for p, t in zip(pred, true, strict=True)]
            return [pairs.count((True, True)), pairs.count((True, False)), pairs.count((False, True))]
        p, t = events(pred), events(true)
        hits = sum(meets(e, t) for e in p)
        return [hits, len(p) - hits, sum(not meets(e, p) for e in t)]

    def mean_f(rows):
        fs = [Fraction(2 * tp, 2 * tp + fp + fn) for tp, fp, fn in rows if tp + fp + fn]
        return float(sum(fs) / len(fs)) if fs else 1.0

    scores = {}
    for level in ("segment", "event"):
        a = [count(level, pa[c], ta[c]) for c in range(25)]
        v = [count(level, pv[c], tv[c]) for c in range(25)]
        av = [count(level, pa[c] * pv[c], ta[c] * tv[c]) for c in range(25)]
        both = [[x + y for x, y in zip(i, j, strict=True)] for i, j in zip(a, v, strict=True)]
        scores[level] = {
            "audio": mean_f(a),
            "visual": mean_f(v),
            "audio_visual": mean_f(av),
            "event": mean_f(both),
        }
        scores[level]["type"] = (mean_f(a) + mean_f(v) + mean_f(av)) / 3
    return scores


def test_golden_values():
    scores = parsing_scores(*golden_tables())
    for level, names in GOLDEN.items():
        for name, value in names.items():
            assert scores[level][name] == pytest.approx(value, abs=1e-6), (level, name)
        a, v, av = (GOLDEN[level][name] for name in ("audio", "visual", "audio_visual"))
        assert scores[level]["type"] == pytest.approx((a + v + av) / 3, abs=1e-6)


def test_empty_video_scores_one_everywhere():
    scores = parsing_scores(empty(), empty(), empty(), empty())
    assert {value for level in scores.values() for value in level.values()} == {1.0}


@pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 0.8])
def test_equal_to_the_slow_reference(density):
    random = np.random.RandomState(int(density * 100))
    for _ in range(20):
        tables = [(random.rand(25, 10) < density).astype(int) for _ in range(4)]
        scores, expected = parsing_scores(*tables), slow_scores(*tables)
        for level in expected:
            assert scores[level] == pytest.approx(expected[level], abs=1e-12)


def test_an_event_counts_from_half_overlap_on():
    half = parsing_scores(row("##........"), empty(), row("####......"), empty())["event"]
    less = parsing_scores(row("##........"), empty(), row("#####....."), empty())["event"]
    assert half["audio"] == 1.0
    assert less["audio"] == 0.0


def test_a_broken_event_is_not_found_where_the_whole_one_is():
    # Neither piece of the broken prediction reaches half of the true event; as one run it would.
    broken = parsing_scores(row("####.####."), empty(), row("##########"), empty())["event"]
    whole = parsing_scores(row("#########."), empty(), row("##########"), empty())["event"]
    assert broken["audio"] == 0.0
    assert whole["audio"] == 1.0


def test_event_pools_counts_of_both_modalities_per_class():
    # Class 3: heard 2 of 2 right, seen 0 of 2: TP 2, FP 0, FN 2, so F = 4 / 6.
    scores = parsing_scores(row("##........"), empty(), row("##........"), row("##........"))["segment"]
    assert scores["audio"] == 1.0
    assert scores["visual"] == 0.0
    assert scores["event"] == pytest.approx(4 / 6)


def test_mean_is_over_videos_not_over_pooled_counts():
    one = parsing_scores(row("#........."), empty(), row("#........."), empty())
    two = parsing_scores(row("##########"), empty(), row(".........."), empty())
    assert mean_scores([one, two])["segment"]["audio"] == 0.5
    assert mean_scores([one]) == one


def test_official_class_order():
    assert len(CLASSES) == len(set(CLASSES)) == 25
    assert (CLASSES[0], CLASSES[13], CLASSES[24]) == ("Speech", "Violin_fiddle", "Clapping")


def test_wrong_tables_are_named():
    good = empty()
    with pytest.raises(ValueError, match=r"pred_visual has the shape \(10, 25\)"):
        parsing_scores(good, good.T, good, good)
    with pytest.raises(ValueError, match="true_audio holds other values than 0 and 1"):
        parsing_scores(good, good, good + 0.4, good)
    with pytest.raises(ValueError, match="holds other values"):
        parsing_scores(good * np.nan, good, good, good)
    with pytest.raises(ValueError, match="videos is empty"):
        mean_scores([])

"""The page of a comparison, its figures, and the placing of their labels."""

import re

import pytest

from hmmoe.report import comparison_page
from hmmoe.report.comparison import at_edge
from hmmoe.report.plots import apart, learning_curves


def method(share, values, rival=None, p=0.04):
    entry = {
        "share": share,
        "values": values,
        "seconds": 12.0,
        "step_seconds": 0.25,
        "peak_mib": 700.0,
        "learning_rate": 0.001,
        "trials": {"0.001": 80.0, "0.0032": 79.0},
    }
    if rival:
        seeds = len(values)
        test = {"method": rival, "seeds": seeds, "difference": 1.5, "low": 0.1, "high": 2.9}
        entry["best_rival"] = test | {"p": p if seeds > 1 else None}
    return entry


def result(**methods):
    sizes = {"train": 64, "validation": 24, "test": 32, "steps": 7, "batch_size": 8}
    return {
        "recipe": "easy",
        "command": "hmmoe compare easy.yaml --note '<b>'",
        "machine": "Linux, 2 cores",
        "metric": "accuracy",
        "sizes": sizes,
        "methods": methods,
    }


CURVES = {"hmmoe": [[(3, 70.0), (7, 80.0)]] * 2, "lora": [[(3, 60.0), (7, 75.0)]] * 2}


@pytest.fixture
def page():
    both = result(lora=method(0.06, [79.0, 78.0], "hmmoe"), hmmoe=method(0.059, [80.0, 80.5], "lora"))
    return comparison_page(both, CURVES)


def test_the_page_holds_everything_and_fetches_nothing(page):
    assert page.count("<svg") == 3
    assert not re.search(r"<script|<link|@import|url\(http", page)
    assert all(a.startswith("#") for a in re.findall(r'(?:src|href)="([^"]+)"', page))
    for word in (
        "80.25 ± 0.35",
        "+1.50 (p 0.040)",
        "5.90 %",
        "700",
        "0.25",
        "32 test rows",
        "--note &#39;&lt;b&gt;",
    ):
        assert word in page
    assert "at the edge" in page


def test_what_validation_chose_is_said_as_it_was(page):
    single = method(0.06, [79.0, 78.0]) | {"trials": {}}
    untried = comparison_page(result(lora=single), {"lora": CURVES["lora"]})
    assert ("chosen checkpoint and learning rate." in page, "What was tried" in page) == (True, True)
    assert ("chosen the checkpoint." in untried, "What was tried" in untried) == (True, False)


def test_the_best_mean_comes_first(page):
    rows = re.findall(r"<tr[^>]*><td>(\w+)</td>", page)
    assert rows[:2] == ["hmmoe", "lora"]


def test_one_seed_and_one_method_are_said_to_show_no_difference():
    page = comparison_page(result(hmmoe=method(0.06, [80.0])), {"hmmoe": [[(7, 80.0)]]})
    assert "a test needs 2 seeds" in page
    assert "80.00 ± ?" in page
    assert "<span>against" not in page


def test_methods_with_the_same_mean_are_said_to_be_level():
    tied = method(0.06, [80.0, 80.0], "lora", p=None)
    tied["best_rival"]["difference"] = 0.0
    page = comparison_page(result(hmmoe=tied, lora=method(0.06, [80.0, 80.0], "hmmoe")), CURVES)
    assert "is level with lora" in page
    assert "is first" not in page


def test_the_edge_of_the_grid_is_seen():
    assert at_edge({"trials": {"0.001": 1.0, "0.01": 2.0}, "learning_rate": 0.01})
    assert not at_edge({"trials": {"0.001": 1.0, "0.01": 2.0, "0.1": 1.0}, "learning_rate": 0.01})
    assert not at_edge({"trials": {}, "learning_rate": 0.01})
    one_rate = {"trials": {"0.01, alpha 1": 1.0, "0.01, alpha 2": None}, "learning_rate": 0.01}
    assert not at_edge(one_rate)  # only options were tuned


def test_labels_keep_their_distance_and_their_order():
    places = apart([1.0, 1.1, 5.0, 0.9], gap=1.0)
    assert places[2] == pytest.approx(5.0)
    assert [places[i] for i in (3, 0, 1)] == pytest.approx([0.0, 1.0, 2.0])


def test_learning_curves_fill_their_rows():
    assert learning_curves({f"m{i}": [[(1, 1.0), (2, 2.0)]] for i in range(5)}, "accuracy").startswith("<svg")

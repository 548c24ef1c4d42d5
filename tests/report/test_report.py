"""The report: one self-contained page with every part that was measured."""

import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from hmmoe.data.media import png, wav
from hmmoe.report import write_report
from hmmoe.report.figures import smooth

METRICS = {
    "metric": "accuracy",
    "validation": {"loss": 0.5, "accuracy": 81.25},
    "test": {"loss": 0.6, "accuracy": 79.5},
    "parameters": {"backbone": 1000, "adapter": 50, "head": 10, "share": 50 / 1050},
    "rows": {"train": 64, "validation": 24, "test": 32},
    "skipped": ["image 3.png cannot be decoded"],
    "steps": 4,
    "best_step": 2,
    "seconds": 12.0,
    "rows_per_second": 33.0,
    "peak_mib": 512.0,
    "routing": {
        "experts": ["affine 1", "cross-attention 1"],
        "points": [{"a": [0.9, 0.1], "b": [0.4, 0.6]}] * 3,
    },
    "curves": {
        "train": [{"step": s, "loss": 1 / s} for s in range(1, 5)],
        "validation": [{"step": s, "metrics": {"loss": 0.5, "accuracy": 80 - s}} for s in (2, 4)],
    },
}
SAMPLE = {
    "parts": [
        {"stream": "image", "kind": "png", "data": png(np.zeros((4, 4, 3), np.uint8))},
        {"stream": "speech", "kind": "wav", "data": wav(np.zeros(80, np.float32), 8000)},
        {"stream": "text", "kind": "text", "data": "a <b>question</b>"},
    ],
    "prediction": "red",
    "target": "blue",
}


class Page(HTMLParser):
    """Collects tags, and the addresses that a browser would fetch."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [
            value for key, value in attributes if key in ("src", "href", "xlink:href") and value
        ]


@pytest.fixture
def page(tmp_path):
    def make(**changes):
        recipe = SimpleNamespace(
            name="easy",
            method={"name": "hmmoe"},
            task={"name": "easy_vqa"},
            encoders={"a": {"name": "one"}, "b": {"name": "two"}},
            to_yaml=lambda: "name: easy\n",
        )
        environment = {"python": "3.11", "packages": {"torch": "2.13"}, "machine": "Linux, 2 cores"}
        write_report(tmp_path / "r.html", recipe, environment, METRICS | changes, [SAMPLE])
        return (tmp_path / "r.html").read_text()

    return make


def test_the_page_holds_everything_and_fetches_nothing(page):
    text = page()
    found = Page(text)
    assert all(a.startswith(("data:", "#")) for a in found.addresses)
    assert "script" not in found.tags
    assert "link" not in found.tags
    assert not re.search(r"@import|url\(http", text)
    assert found.tags.count("svg") == 2
    assert {"img", "audio"} <= set(found.tags)
    for word in (
        "79.5",
        "81.25",
        "4.76 %",
        "512 MiB",
        "stream b",
        "cross-attention 1",
        "red",
        "blue",
        "name: easy",
    ):
        assert word in text
    assert "torch 2.13" in text
    assert "image 3.png cannot be decoded" in text


def test_a_row_s_words_are_escaped(page):
    assert "a &lt;b&gt;question&lt;/b&gt;" in page()


def test_a_model_without_routers_has_no_routing_map(page):
    assert Page(page(routing=None)).tags.count("svg") == 1


def test_smoothing_starts_at_the_first_value_and_keeps_constants():
    assert smooth([3.0, 3.0, 3.0]) == pytest.approx([3.0] * 3)
    assert smooth([1.0, 2.0])[0] == pytest.approx(1.0)

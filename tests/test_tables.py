"""The docs' tables: as the committed results have them, and what they say."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import tables

ROOT = tables.ROOT
COMMON = {"metric": "accuracy", "machine": "Linux, 2 cores", "command": "hmmoe compare easy.yaml"}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Writes a result of that name, to be found by the tables."""
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    return lambda name, **content: (tmp_path / f"{name}.json").write_text(json.dumps(COMMON | content))


def method(*values, **rest):
    return {"values": values, "share": 0.06, "step_seconds": 0.25, "peak_mib": 700.0, **rest}


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name
)
def test_pages_hold_what_the_committed_results_say(page):
    text = page.read_text(encoding="utf-8")
    assert tables.filled(text) == text, "run python -m benchmarks.tables"


def test_a_comparison_has_the_best_first(results):
    test = {"method": "lora", "seeds": 2, "difference": 2.0, "p": 0.04}
    results("c", methods={"lora": method(78.0, 79.0), "hmmoe": method(80.0, 81.0, best_rival=test)})
    text = tables.filled("a\n<!-- comparison c -->\nold\n<!-- end -->\nb")
    assert text.startswith("a\n<!-- comparison c -->\n\n| method | test accuracy |")
    assert "| `hmmoe` | 80.50 ± 0.71 | +2.00 (p 0.040) | 6.00% | 0.25 | 700 |\n| `lora` | 78.50" in text
    assert "2 seeds, Linux, 2 cores: `hmmoe compare easy.yaml`\n\n<!-- end -->\nb" in text
    assert "old" not in text
    assert tables.filled(text) == text


def test_a_robustness_table_has_the_least_lost_first(results):
    values = {"clean": [80.0, 82.0], "without a": [70.0, 72.0]}
    methods = {
        "lora": {"values": values, "lost": 10.0},
        "hmmoe": {"values": values | {"without a": [79.0, 81.0]}},
    }
    methods["hmmoe"]["lost"] = 1.0
    results("r", conditions=list(values), methods=methods)
    text = tables.robustness("r")
    assert "| method | clean | without a | mean |" in text
    assert "| `hmmoe` | 81.0 | -1.0 | -1.0 |\n| `lora` | 81.0 | -10.0 | -10.0 |" in text


def test_an_ablation_says_what_changes_and_what_that_does_where_it_was_run(results):
    assert "| `router_uniform` | `{router: uniform}` |\n" in tables.ablation("easy_vqa")
    results("ablations-easy_vqa", methods={"hmmoe": method(80.0, 81.0), "router_uniform": method(79.0, 80.5)})
    text = tables.ablation("easy_vqa")
    assert "| `hmmoe` | as in its recipe | 80.50 ± 0.71 |  | 6.0% |" in text
    assert "| `router_uniform` | `{router: uniform}` | 79.75 ± 1.06 | -0.75 (p 0.20) | 6.0% |" in text

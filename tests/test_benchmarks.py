"""The benchmark of the layer prints the JSON that its readers expect; its figures are not judged here."""

import json
import sys

import pytest

from benchmarks import layer


def test_the_layer_benchmark_prints_one_object_with_all_cases(monkeypatch, capsys):
    monkeypatch.setattr(layer, "FRAMES", 1)
    monkeypatch.setattr(sys, "argv", ["benchmarks.layer", "--json", "--rounds", "1"])
    layer.main()
    rows = {row["case"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert list(rows) == [
        "144x768/256x384",
        "576x768/256x384",
        "2304x192/4096x96",
        "experts-4-to-32",
        "tokens-256-to-8192",
    ]
    for row in rows.values():
        assert row["cpu_ms"] > 0
        assert row["ratio"] > 0
        if row["products_ms"] is not None:
            assert row["ratio"] == pytest.approx(row["cpu_ms"] / row["products_ms"])

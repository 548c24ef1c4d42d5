"""The page of a comparison: its table, its figures, and how to repeat it, in one file that needs no other."""

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from hmmoe.report.page import template

Curve = Sequence[tuple[int, float]]  # (step, value) of each validation


def comparison_page(result: Mapping[str, Any], curves: Mapping[str, Sequence[Curve]]) -> str:
    """The page as HTML text.

    Args:
        result: of `hmmoe.engine.result.collect`.
        curves: method -> a learning curve of the metric on validation for each seed.
    """
    from hmmoe.engine.paired import in_words
    from hmmoe.engine.trials import Trial
    from hmmoe.report.plots import against_share, learning_curves, strips

    methods = result["methods"]
    order = sorted(methods, key=lambda name: -statistics.mean(methods[name]["values"]))
    rows = [
        {
            "name": name,
            "mean": statistics.mean(methods[name]["values"]),
            "std": statistics.stdev(methods[name]["values"]) if len(methods[name]["values"]) > 1 else None,
            "test": in_words(methods[name]["best_rival"]) if "best_rival" in methods[name] else None,
            "edge": at_edge(methods[name]),
            "chosen": str(Trial.chosen(methods[name])),
            **methods[name],
        }
        for name in order
    ]
    values = {name: methods[name]["values"] for name in order}
    return template("comparison.html.jinja").render(
        result=result,
        rows=rows,
        tried=any(row["trials"] for row in rows),
        seeds=min(len(v) for v in values.values()),
        strips=strips(values, result["metric"]),
        against_share=against_share(values, {n: methods[n]["share"] for n in order}, result["metric"]),
        learning_curves=learning_curves({n: curves[n] for n in order if n in curves}, result["metric"]),
        result_json=json.dumps(result, indent=1),
    )


def at_edge(method: Mapping[str, Any]) -> bool:
    """Was the best learning rate the smallest or the largest tried? A better one may then lie beyond."""
    tried = {float(trial.split(",")[0]) for trial in method["trials"]}
    return len(tried) > 1 and method["learning_rate"] in (min(tried), max(tried))

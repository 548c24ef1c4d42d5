"""Is one method better than another? A paired test over seeds.

Runs of the same seed share the first head and the order of the rows, so their difference is what is tested,
by Student's paired t-test, two-sided (scipy). Wilcoxon's signed-rank test would need six seeds before it
could ever give p < 0.05.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def paired(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float | None]:
    """Compare two methods' values, seed by seed.

    Returns:
        `{"difference", "low", "high", "p"}`: the mean of ours - theirs, its 95 % interval and the p-value;
        the last three are None with fewer than two seeds, or where all differences are the same.
    """
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    result: dict[str, float | None] = {"difference": round(statistics.mean(differences), 6)}
    if len(differences) < 2 or max(differences) - min(differences) < 1e-9:
        return result | {"low": None, "high": None, "p": None}
    from scipy.stats import ttest_rel

    test = ttest_rel(ours, theirs)
    low, high = test.confidence_interval(0.95)
    return result | {
        "low": round(float(low), 6),
        "high": round(float(high), 6),
        "p": float(f"{test.pvalue:.4g}"),
    }


def best_rival(values: Mapping[str, Sequence[float]], method: str) -> str | None:
    """Among all other methods the one with the highest mean; None where there is no other."""
    others = [name for name in values if name != method]
    return max(others, key=lambda name: statistics.mean(values[name]), default=None)


def against_best(values: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Method -> `{"method", "seeds"}` of its best rival and what `paired` says; empty for a lone method."""
    rivals = {name: rival for name in values if (rival := best_rival(values, name)) is not None}
    return {
        name: {"method": rival, "seeds": len(values[name]), **paired(values[name], values[rival])}
        for name, rival in rivals.items()
    }


def in_words(test: Mapping[str, Any]) -> str:
    """A result of `paired` for a table: `+1.20 (p 0.03)`, or why there is no p."""
    if test["p"] is not None:
        return f"{test['difference']:+.2f} (p {_p(test['p'])})"
    why = "needs 2 seeds" if test.get("seeds", 0) < 2 else "no spread"
    return f"{test['difference']:+.2f} ({why})"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"

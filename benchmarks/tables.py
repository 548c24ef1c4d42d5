"""The docs' tables, from the results in benchmarks/results and the recipes of the ablations.

    python -m benchmarks.tables [PAGE.md …]     # writes; README.md and docs/*.md if none is given

A page says where a table goes; what stands between the two lines is replaced:

    <!-- comparison compare-easy_vqa -->         of benchmarks/results/compare-easy_vqa.json
    <!-- robustness robustness-easy_vqa -->      the same
    <!-- ablation easy_vqa -->                   of recipes/ablations/easy_vqa.yaml, with the figures of
    <!-- end -->                                 benchmarks/results/ablations-easy_vqa.json where it is there
"""

import json
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hmmoe.engine.paired import in_words, paired
from hmmoe.engine.recipe import Recipe
from hmmoe.engine.result import spread
from hmmoe.engine.robustness import CLEAN

ROOT = Path(__file__).resolve().parents[1]
RESULTS, ABLATIONS = ROOT / "benchmarks" / "results", ROOT / "recipes" / "ablations"
BLOCK = re.compile(r"(<!-- (comparison|robustness|ablation) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def comparison(name: str) -> str:
    """Methods, best first."""
    result = _result(name)
    rows = []
    for method, m in sorted(result["methods"].items(), key=lambda kv: -statistics.mean(kv[1]["values"])):
        test = in_words(m["best_rival"]) if "best_rival" in m else "-"
        cost = [f"{m['share']:.2%}", f"{m['step_seconds']:.3g}", f"{m['peak_mib']:.0f}"]
        rows.append([f"`{method}`", _value(m["values"]), test, *cost])
    head = ["method", f"test {result['metric']}", "against the best other", "share", "s/step", "peak MiB"]
    return _table(head, rows) + _source(result)


def robustness(name: str) -> str:
    """What each condition takes from each method, the least lost first."""
    result = _result(name)
    rows = []
    for method, m in sorted(result["methods"].items(), key=lambda kv: kv[1]["lost"]):
        clean = statistics.mean(m["values"][CLEAN])
        losses = [f"{statistics.mean(v) - clean:+.1f}" for c, v in m["values"].items() if c != CLEAN]
        rows.append([f"`{method}`", f"{clean:.1f}", *losses, f"{-m['lost']:+.1f}"])
    return _table(["method", *result["conditions"], "mean"], rows) + _source(result)


def ablation(pack: str) -> str:
    """Variants in the recipe's order: what they change and, where they were run, what that does."""
    recipe = Recipe.load(ABLATIONS / f"{pack}.yaml", ["data_root=FOLDER"])
    own = recipe.method["name"]
    changes: dict[str, Mapping[str, Any]] = {own: {}, **recipe.variants}
    words = {name: f"`{_flow(change)}`" if change else "as in its recipe" for name, change in changes.items()}
    if not (RESULTS / f"ablations-{pack}.json").is_file():
        return _table(["variant", "what it changes"], [[f"`{n}`", words[n]] for n in changes])
    result = _result(f"ablations-{pack}")
    methods = result["methods"]
    rows = []
    for name in changes:
        if name not in methods:
            continue
        values, base = methods[name]["values"], methods[own]["values"]
        test = "" if name == own else in_words({"seeds": len(base), **paired(values, base)})
        rows.append([f"`{name}`", words[name], _value(values), test, f"{methods[name]['share']:.1%}"])
    head = ["variant", "what it changes", f"test {result['metric']}", f"against {own}", "share"]
    return _table(head, rows) + _source(result)


TABLES = {"comparison": comparison, "robustness": robustness, "ablation": ablation}


def filled(text: str) -> str:
    """A page with all its tables as they should be."""
    return BLOCK.sub(lambda m: m[1] + "\n" + TABLES[m[2]](m[3]) + "\n" + m[4], text)


def _result(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def _value(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f} {spread(values)}"


def _flow(change: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(change), default_flow_style=True, sort_keys=False, width=1000).strip()


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _source(result: Mapping[str, Any]) -> str:
    seeds = {len(_first(m["values"])) for m in result["methods"].values()}
    return f"\n{min(seeds)} seeds, {result['machine']}: `{result['command']}`\n"


def _first(values: Any) -> Sequence[float]:
    return next(iter(values.values())) if isinstance(values, Mapping) else values


def main(pages: Sequence[Path]) -> None:
    for page in pages:
        old = page.read_text(encoding="utf-8")
        if (new := filled(old)) != old:
            page.write_text(new, encoding="utf-8")
            print(f"written: {page}")


if __name__ == "__main__":
    main([Path(a) for a in sys.argv[1:]] or [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])

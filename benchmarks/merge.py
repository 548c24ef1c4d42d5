"""One result of comparisons of the same recipe that were run apart, each with other methods.

    python -m benchmarks.merge benchmarks/results/compare-X.json PART.json PART.json …

Runs of the same seed share head and order of rows wherever they run, so values may be put side by side and
tested in pairs; seconds and memory are comparable only where the machine was. Runs are not read again: what
differs between parts besides the methods (recipe, metric, sizes, number of seeds) is an error.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hmmoe.engine.paired import against_best
from hmmoe.files import write_json

ALIKE = ("recipe", "metric", "sizes")


def merged(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The parts' methods side by side, each tested against the best other of all.

    Raises:
        ValueError: the parts are of different comparisons, or a method is in two of them.
    """
    first = parts[0]
    methods: dict[str, dict[str, Any]] = {}
    for part in parts:
        for key in ALIKE:
            if part[key] != first[key]:
                raise ValueError(f"parts differ in {key}: {first[key]} and {part[key]}")
        if twice := methods.keys() & part["methods"].keys():
            raise ValueError(f"in two parts: {', '.join(sorted(twice))}")
        methods |= {name: dict(method) for name, method in part["methods"].items()}
    values = {name: method["values"] for name, method in methods.items()}
    if len({len(v) for v in values.values()}) > 1:
        raise ValueError(f"numbers of seeds differ: { {name: len(v) for name, v in values.items()} }")
    for name, rival in against_best(values).items():
        methods[name]["best_rival"] = rival
    return {
        **first,
        "command": " && ".join(dict.fromkeys(part["command"] for part in parts)),
        "machine": "; ".join(dict.fromkeys(part["machine"] for part in parts)),
        "methods": methods,
    }


def main(out: Path, parts: Sequence[Path]) -> None:
    result = merged([json.loads(part.read_text(encoding="utf-8")) for part in parts])
    write_json(out, result)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(a) for a in sys.argv[2:]])

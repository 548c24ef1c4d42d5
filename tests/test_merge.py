"""benchmarks.merge: parts of one comparison, run apart."""

import json

import pytest

from benchmarks.merge import main, merged


def part(methods, **changed):
    return {
        "recipe": "r",
        "command": f"run {','.join(methods)}",
        "machine": "m",
        "metric": "accuracy",
        "sizes": {"train": 4},
        "methods": {name: {"share": 0.06, "values": values} for name, values in methods.items()},
        **changed,
    }


def test_every_method_is_tested_against_the_best_other_of_all_parts(tmp_path):
    parts = [part({"a": [1.0, 2.0], "b": [3.0, 4.5]}), part({"c": [5.0, 5.5]})]
    for i, tree in enumerate(parts):
        (tmp_path / f"{i}.json").write_text(json.dumps(tree))
    main(tmp_path / "out.json", [tmp_path / "0.json", tmp_path / "1.json"])
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["command"] == "run a,b && run c"
    assert result["machine"] == "m"
    rivals = {name: method["best_rival"] for name, method in result["methods"].items()}
    assert {name: rival["method"] for name, rival in rivals.items()} == {"a": "c", "b": "c", "c": "b"}
    assert rivals["c"]["difference"] == 1.5
    assert rivals["a"]["difference"] == -3.75


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (part({"b": [1.0, 2.0]}, sizes={"train": 5}), "parts differ in sizes"),
        (part({"b": [1.0, 2.0]}, recipe="s"), "parts differ in recipe"),
        (part({"a": [1.0, 2.0]}), "in two parts: a"),
        (part({"b": [1.0, 2.0, 3.0]}), "numbers of seeds differ"),
    ],
)
def test_parts_of_different_comparisons_are_refused(other, says):
    with pytest.raises(ValueError, match=says):
        merged([part({"a": [1.0, 2.0]}), other])

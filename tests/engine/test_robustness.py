"""Robustness: every run under every condition, from finished runs, once."""

import json

import pytest
from rich.console import Console

from hmmoe.engine import robustness as module
from hmmoe.engine.evaluate import evaluate
from hmmoe.engine.progress import Display
from hmmoe.engine.result import collect
from hmmoe.engine.robustness import lost, robustness, table
from hmmoe.engine.train import train
from hmmoe.engine.trials import Trial
from hmmoe.files import write_whole

CONDITIONS = ["clean", "no image", "no text", "image noise 1", "text noise 1"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A folder as `hmmoe compare` leaves it, of two methods and one seed."""
    import toy

    from hmmoe.engine.recipe import Recipe

    folder = tmp_path_factory.mktemp("compare")
    tree = toy.RECIPE | {"prefix_cache": True}
    metrics, chosen = {}, {}
    for name in ("frozen", "hmmoe"):
        method = {"name": name} | ({"budget": 0.5, "points": 1} if name == "hmmoe" else {})
        recipe = Recipe.from_dict(tree | {"method": method})
        chosen[name] = Trial(recipe.train.learning_rate)
        metrics[name] = {0: train(recipe, folder / chosen[name].folder(name, 0))}
    result = collect(recipe, "c", metrics, chosen, {name: [trial] for name, trial in chosen.items()})
    write_whole(folder / "result.json", json.dumps(result))
    return folder, metrics


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Jobs run in this process, which knows the toy task."""

    def run_all(jobs, workers, threads, row):
        for job in jobs:
            yield job, job.done() or job.run(row(job.name))

    monkeypatch.setattr(module, "run_all", run_all)


@pytest.fixture
def said():
    import io

    out = io.StringIO()
    return Display(Console(file=out, width=200)), out


def test_every_run_is_tested_under_every_condition_and_only_once(compared, said, tmp_path, monkeypatch):
    folder, metrics = compared
    display, out = said
    result = robustness(folder, levels=[1.0], display=display, command="r", out=tmp_path / "robust.json")
    assert result["command"] == "c && r"  # trained by the one, tested by the other
    assert result["conditions"] == CONDITIONS
    assert result["rows"] == 32
    for name, method in result["methods"].items():
        assert method["values"]["clean"] == [metrics[name][0]["test"]["accuracy"]]
        assert method["lost"] == lost(method["values"])
    assert json.loads((tmp_path / "robust.json").read_text()) == result
    assert not (folder / "memory").exists()
    display.console.print(table(result))
    assert "text noise 1" in out.getvalue()

    def fail(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr(module.Tested, "run", fail)
    assert robustness(folder, levels=[1.0], display=display, command="r") == result


def test_the_shared_memory_changes_no_figure(compared, said, tmp_path):
    folder, _ = compared
    result = robustness(folder, levels=[1.0], display=said[0])
    run = folder / Trial(0.01).folder("hmmoe", 0)
    for condition, options in (
        ("no image", {"without": ["image"]}),
        ("text noise 1", {"noise": {"text": 1.0}}),
    ):
        alone = evaluate(run, **options).metrics["accuracy"]
        assert result["methods"]["hmmoe"]["values"][condition] == [alone]


def test_variants_that_never_get_a_stream_are_left_out_by_name(compared, said, tmp_path):
    import shutil

    shutil.copytree(compared[0], tmp_path / "compare")
    result = json.loads((tmp_path / "compare" / "result.json").read_text())
    result["methods"] = {"deaf": result["methods"]["frozen"], **result["methods"]}
    (tmp_path / "compare" / "result.json").write_text(json.dumps(result))
    deaf = tmp_path / "compare" / Trial(0.01).folder("deaf", 0)
    shutil.copytree(tmp_path / "compare" / Trial(0.01).folder("frozen", 0), deaf)
    recipe = (deaf / "recipe.yaml").read_text()
    (deaf / "recipe.yaml").write_text(recipe.replace("leave_out: []", "leave_out: [text]"))
    display, out = said
    found = robustness(tmp_path / "compare", levels=[1.0], display=display)
    assert found["conditions"] == CONDITIONS
    assert list(found["methods"]) == ["frozen", "hmmoe"]
    assert "deaf is not tested: it never gets text" in out.getvalue()


def test_fewer_rows_are_measured_apart(compared, said):
    folder, _ = compared
    result = robustness(folder, levels=[2.0], limit=8, display=said[0])
    assert result["rows"] == 8
    known = json.loads((folder / Trial(0.01).folder("frozen", 0) / "robustness.json").read_text())
    assert known["clean, 8 rows"]["rows"] == 8


def test_a_damaged_file_of_a_run_is_named(compared, said, tmp_path):
    import shutil

    shutil.copytree(compared[0], tmp_path / "compare")
    broken = tmp_path / "compare" / Trial(0.01).folder("hmmoe", 0) / "robustness.json"
    broken.write_text("{")
    with pytest.raises(ValueError, match=r"hmmoe.*robustness\.json' is damaged .* delete it to test again"):
        robustness(tmp_path / "compare", levels=[1.0], display=said[0])


def test_what_is_lost_is_the_mean_over_all_conditions():
    assert lost({"clean": [80.0, 82.0], "without a": [70.0, 72.0], "noise in a 1": [80.0, 80.0]}) == 5.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"without": ["txt"]}, "unknown stream of task 'toy' 'txt', did you mean 'text'"),
        ({"without": ["image", "text"]}, "nothing is left to answer from without image and text"),
        ({"noise": {"image": 0}}, "noise in stream 'image' must be above 0, got 0"),
        ({"noise": {"image": 1}, "without": ["image"]}, "'image' is left out, so it cannot have noise"),
    ],
)
def test_bad_conditions_are_named(compared, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(compared[0] / Trial(0.01).folder("frozen", 0), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": []}, "levels must be above 0, got none"),
        ({"limit": 0}, "rows must be"),
        ({"workers": 0}, "jobs must be"),
    ],
)
def test_bad_arguments_are_named(compared, said, options, message):
    with pytest.raises(ValueError, match=message):
        robustness(compared[0], display=said[0], **options)


def test_a_folder_without_a_comparison_is_said_to_have_none(tmp_path, said):
    with pytest.raises(FileNotFoundError, match=r"no finished comparison: it has no result.json"):
        robustness(tmp_path, display=said[0])

"""The command line: quick help, every command on a tiny run, errors in one sentence with exit code 2."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hmmoe.cli import app

sys.path.insert(0, str(Path(__file__).parent / "engine"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a finished toy run made by the command."""
    import toy

    from hmmoe.engine.recipe import Recipe

    folder = tmp_path_factory.mktemp("cli")
    tree = toy.RECIPE | {"method": {"name": "hmmoe", "budget": 0.5, "points": 2}}
    (folder / "toy.yaml").write_text(Recipe.from_dict(tree).to_yaml())
    done = CliRunner().invoke(
        app, ["train", str(folder / "toy.yaml"), "train.epochs=10", "--out", str(folder / "run")]
    )
    assert done.exit_code == 0, done.output
    assert "test accuracy" in done.output
    assert "report.html" in done.output
    return folder / "run"


def call(*words):
    return CliRunner().invoke(app, [str(w) for w in words])


def test_help_loads_nothing_heavy_and_is_quick():
    code = (
        "import sys; from hmmoe.cli import app; heavy = {'torch', 'transformers', 'peft', 'rich', 'yaml'}; "
    )
    code += "assert not heavy & set(sys.modules); import time; print(time.process_time())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1


@pytest.mark.parametrize("words", [["-c", "import hmmoe"], ["-m", "hmmoe.cli", "--help"]])
def test_import_and_help_take_less_than_a_second_of_cpu(words):
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


@pytest.mark.parametrize("command", ["train", "eval", "predict", "inspect", "compare", "robustness"])
def test_every_command_has_help(command):
    done = call(command, "--help")
    assert done.exit_code == 0
    assert "--debug" in done.output


def test_keys_prints_every_recipe_key_with_its_help():
    done = call("train", "--keys")
    assert done.exit_code == 0
    for word in ("train.learning_rate", "prefix_cache", "method.budget", "method.alpha"):
        assert word in done.output


def test_eval_repeats_the_run_s_own_figures(run):
    metrics = json.loads((run / "metrics.json").read_text())
    done = call("eval", run, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == pytest.approx(metrics["test"])
    assert "validation accuracy" in call("eval", run, "--split", "validation").output


def test_eval_writes_predictions_in_the_official_form(run, tmp_path):
    done = call("eval", run, "--result", tmp_path / "new")
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "new" / "test.json").read_text())
    assert [row["row"] for row in rows] == list(range(32))


def test_eval_measures_rows_that_lack_a_stream_or_are_noisy(run):
    blind = json.loads(call("eval", run, "--json", "--without", "image").stdout)
    deaf = json.loads(call("eval", run, "--json", "--noise", "image=3", "--noise", "text=3").stdout)
    clean = json.loads((run / "metrics.json").read_text())["test"]
    assert len({found["loss"] for found in (blind, deaf, clean)}) == 3


def test_predict_answers_in_the_task_s_words(run, tmp_path):
    import numpy as np
    from PIL import Image

    Image.fromarray(np.full((16, 16, 3), 250, np.uint8)).save(tmp_path / "light.png")
    done = call("predict", run, f"image={tmp_path / 'light.png'}", "text=is it bright?")
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() in ("yes", "no")


def test_inspect_prints_parts_points_and_routing(run):
    done = call("inspect", run)
    assert done.exit_code == 0, done.output
    for word in ("hmmoe", "backbone", "adapter", "head", "test accuracy", "point", "affine"):
        assert word in done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "absent.yaml"], "there is no recipe 'absent.yaml'"),
        (["train", "{recipe}", "train.sed=1"], "did you mean 'seed'"),
        (["train", "{recipe}", "--out", "{run}"], "another recipe (it differs in train.epochs)"),
        (["train", "{recipe}", "train.epochs=10", "--out", "{run}"], "--resume"),
        (["eval", "nowhere"], "'nowhere' is not a run folder"),
        (["eval", "{run}", "--split", "tests"], "did you mean 'test'"),
        (["eval", "{run}", "--without", "imag"], "did you mean 'image'"),
        (["eval", "{run}", "--noise", "image"], "noise 'image' is not of the form stream=level"),
        (["eval", "{run}", "--noise", "image=loud"], "noise in image must be a number, got 'loud'"),
        (["robustness", "{run}"], "holds no finished comparison"),
        (["inspect", "nowhere"], "'nowhere' is not a run folder"),
        (["predict", "{run}", "picture"], "'picture' is not of the form stream=value"),
        (["predict", "{run}", "imag=x", "text=y"], "did you mean 'image'"),
        (["predict", "{run}", "image=gone.png", "text=y"], "gone.png does not exist"),
        (["predict", "{run}", "text=y"], "add image="),
        (["compare", "{recipe}", "--methods", "lora,hmoe"], "did you mean 'hmmoe'"),
        (["compare", "{recipe}", "--budget", "2"], "method.budget must be at most"),
    ],
)
def test_a_user_s_slip_is_one_sentence_and_exit_code_2(run, words, said):
    words = [w.format(recipe=run.parent / "toy.yaml", run=run) for w in words]
    done = call(*words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.output


def test_damaged_weights_are_named(run, tmp_path):
    shutil.copytree(run, tmp_path / "cut")
    file = tmp_path / "cut" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    done = call("eval", tmp_path / "cut")
    assert done.exit_code == 2
    assert "adapter_model.safetensors is cut short" in done.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ModuleNotFoundError("No module named 'av'", name="av"),
            "this needs av; pip install 'hmmoe[data,report]'",
        ),
        (ImportError("this needs the PyPI package easy-vqa: pip install easy-vqa"), "pip install easy-vqa"),
    ],
)
def test_a_part_that_is_not_installed_is_one_sentence(run, monkeypatch, error, said):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("hmmoe.engine.predict.predict", fail)
    done = call("predict", run, "image=x.png")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "{recipe}", "--out", "{run}-new"], "interrupted; go on with --resume\n"),
        (["compare", "{recipe}"], "interrupted; the same command goes on where it was\n"),
        (["inspect", "{run}"], "interrupted\n"),
    ],
)
def test_an_interrupted_command_says_how_to_go_on(run, monkeypatch, words, said):
    def stop(*_, **__):
        raise KeyboardInterrupt

    for name in ("train.train", "compare.compare", "inspect.describe_run"):
        monkeypatch.setattr(f"hmmoe.engine.{name}", stop)
    done = call(*(w.format(recipe=run.parent / "toy.yaml", run=run) for w in words))
    assert done.exit_code == 130
    assert done.stderr == said


def test_a_broken_row_in_a_loading_process_is_one_sentence(run, monkeypatch):
    import toy

    from hmmoe.data import MediaError

    def read(self, split, row):
        raise MediaError(f"image {row}.png cannot be decoded")

    monkeypatch.setattr(toy.ToyTask, "read", read)
    done = call("train", run.parent / "toy.yaml", "train.workers=1", "--out", run.parent / "broken")
    assert done.exit_code == 2
    assert re.fullmatch(r"error: image \d+\.png cannot be decoded\n", done.stderr)


def test_a_damaged_metrics_file_is_named(run, tmp_path):
    shutil.copytree(run, tmp_path / "cut")
    (tmp_path / "cut" / "metrics.json").write_text("{")
    for command in ("eval", "inspect"):
        done = call(command, tmp_path / "cut")
        assert done.exit_code == 2
        assert re.search(r"metrics\.json' is damaged \(.*train the run again", done.stderr)


def test_debug_shows_where_an_error_came_from():
    done = call("train", "absent.yaml", "--debug")
    assert isinstance(done.exception, FileNotFoundError)

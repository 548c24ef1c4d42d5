"""Run folders: whole or absent, tied to their recipe, and never resumed from half a checkpoint."""

import pytest

from hmmoe.engine.run import RunDir, environment, machine


def checkpoint(run, step, whole=True):
    run.checkpoint(step).mkdir(parents=True)
    (run.checkpoint(step) / "weights").write_text("x")
    if whole:
        (run.checkpoint(step) / "complete").touch()


def test_a_folder_appears_whole_with_recipe_and_environment(tmp_path, recipe):
    run = RunDir(tmp_path / "runs" / "toy")
    run.create(recipe())
    assert run.recipe() == recipe()
    assert {f.name for f in run.path.iterdir()} == {"recipe.yaml", "environment.json", "checkpoints"}
    assert [f.name for f in run.path.parent.iterdir()] == ["toy"]  # nothing temporary is left


def test_nothing_is_left_when_writing_fails(tmp_path, recipe, monkeypatch):
    def fail():
        raise OSError("disk full")

    monkeypatch.setattr("hmmoe.engine.run.environment", fail)
    with pytest.raises(OSError, match="disk full"):
        RunDir(tmp_path / "toy").create(recipe())
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_needs_resume_and_the_same_recipe(tmp_path, recipe):
    run = RunDir(tmp_path / "toy")
    run.check(recipe(), resume=False)
    run.create(recipe())
    run.check(recipe(), resume=True)
    with pytest.raises(ValueError, match="exists already; --resume it"):
        run.check(recipe(), resume=False)
    with pytest.raises(ValueError, match=r"another recipe \(it differs in train.seed\)"):
        run.check(recipe(train={"seed": 1}), resume=True)


def test_moved_data_is_the_same_recipe_and_the_folder_learns_where_it_is(tmp_path, recipe):
    def at(root, tower="{data_root}/towers/one"):
        return recipe(data_root=root, towers={"image": {"name": tower}, "text": {"name": "{data_root}"}})

    run = RunDir(tmp_path / "toy")
    run.create(at("/old"))
    (run.path / "environment.json").write_text("{}")
    for same in (at("/new"), at("../new/"), at("/new", "/new/towers/one")):
        run.check(same, resume=True)
    outside = "/newer/towers/one"  # begins with the letters of /new
    for tower in ("{data_root}/towers/two", "/old/towers/one", outside):
        with pytest.raises(ValueError, match=r"another recipe \(it differs in towers.image.name\)"):
            run.check(at("/new", tower), resume=True)
    run.create(at("/new"))
    assert run.recipe() == at("/new")
    assert (run.path / "environment.json").read_text() == "{}"


def test_a_folder_that_is_no_run_is_said_to_be_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        RunDir(tmp_path).finished_metrics()
    with pytest.raises(ValueError, match="exists and is no run folder; choose another with --out"):
        RunDir(tmp_path).check(None, resume=False)


def test_an_unfinished_run_says_how_to_finish_it(tmp_path, recipe):
    run = RunDir(tmp_path / "toy")
    run.create(recipe())
    with pytest.raises(ValueError, match=r"is not finished; go on with .*--resume"):
        run.finished_metrics()


def test_half_written_checkpoints_do_not_count_and_go(tmp_path):
    run = RunDir(tmp_path)
    assert run.newest_checkpoint() is None
    checkpoint(run, 9)
    checkpoint(run, 10)
    checkpoint(run, 11, whole=False)
    assert run.newest_checkpoint() == run.checkpoint(10)
    assert not run.checkpoint(11).exists()


def test_only_the_newest_and_the_best_checkpoint_are_kept(tmp_path):
    run = RunDir(tmp_path)
    for step in (1, 2, 3):
        checkpoint(run, step)
    checkpoint(run, 4, whole=False)
    run.keep(4, best=2)
    assert sorted(f.name for f in run.checkpoints.iterdir()) == ["checkpoint-2", "checkpoint-4"]
    assert run.newest_checkpoint() == run.checkpoint(4)


def test_results_move_in_with_the_metrics_last(tmp_path, recipe):
    run = RunDir(tmp_path / "toy")
    run.create(recipe())
    checkpoint(run, 3)

    def fail(folder):
        (folder / "adapter").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        run.finish(fail)
    assert run.metrics() is None
    assert not (run.path / "adapter").exists()
    assert run.newest_checkpoint() is not None

    def write(folder):
        (folder / "adapter").write_text("whole")
        assert run.metrics() is None
        return {"metric": "accuracy"}

    run.finish(write)
    assert run.finished_metrics() == {"metric": "accuracy"}
    assert (run.path / "adapter").read_text() == "whole"
    assert not run.checkpoints.exists()
    assert not [f for f in tmp_path.rglob(".*")]


def test_environment_names_versions_and_machine():
    found = environment()
    assert found["packages"]["torch"]
    assert "cores" in found["machine"]


def test_the_machine_is_named_with_its_accelerator(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "NVIDIA H200")
    assert machine().endswith(", NVIDIA H200")

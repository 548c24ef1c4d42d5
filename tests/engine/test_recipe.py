"""Recipes: round trips, overrides, and what a bad one is told."""

import json
import re
from pathlib import Path

import pytest

from hmmoe.engine.recipe import Recipe, Train
from hmmoe.methods import make_method
from hmmoe.options import describe, difference

TEXT = """
task: {name: easy_vqa, train_rows: 2000}
towers: {image: {name: efficientnet-lite0}, text: {name: "{data_root}/minilm"}}
method: {name: hmmoe, budget: 6e-2, points: 4}
train: {epochs: 6, learning_rate: 1e-3}
"""
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_run.yaml"
    path.write_text(TEXT)
    return path


def test_numbers_names_and_data_root_are_resolved(file):
    recipe = Recipe.load(file, ["data_root=/data", "train.batch_size=8", "method.experts={affine: 1}"])
    assert recipe.name == "my_run"
    assert recipe.train.learning_rate == 1e-3
    assert recipe.method["budget"] == 0.06
    assert recipe.train.batch_size == 8
    assert recipe.method["experts"] == {"affine": 1}
    assert recipe.towers["text"]["name"] == "/data/minilm"


def test_a_recipe_says_only_what_differs_from_its_base(file, tmp_path):
    (tmp_path / "more").mkdir()
    more = tmp_path / "more" / "longer.yaml"
    more.write_text("base: ../my_run.yaml\ntrain: {epochs: 9}\nmethod: {points: 2}\n")
    recipe, base = Recipe.load(more, ["data_root=/data"]), Recipe.load(file, ["data_root=/data"])
    assert difference(recipe.to_dict(), base.to_dict()) == ["name", "method.points", "train.epochs"]
    assert recipe.name == "longer"
    assert Recipe.load(more, ["data_root=/data", "train.epochs=1"]).train.epochs == 1


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("nothing.yaml", "there is no recipe .*nothing.yaml"),
        ("longer.yaml", "longer.yaml' is its own base"),
        ("3", "recipe key base must be the path of a recipe, got 3"),
    ],
)
def test_a_base_that_is_none_is_said_to_be_none(tmp_path, base, message):
    (tmp_path / "longer.yaml").write_text(f"base: {base}\n")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Recipe.load(tmp_path / "longer.yaml")


def test_yaml_and_json_round_trips_are_exact(file, tmp_path):
    recipe = Recipe.load(file, ["data_root=/data"])
    (tmp_path / "again.yaml").write_text(recipe.to_yaml())
    (tmp_path / "again.json").write_text(json.dumps(recipe.to_dict(), sort_keys=True))
    assert Recipe.load(tmp_path / "again.yaml") == recipe
    assert Recipe.load(tmp_path / "again.json") == recipe


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.lerning_rate=1", "train.lerning_rate.*did you mean 'learning_rate'"),
        ("twers={}", "twers.*did you mean 'towers'"),
        ("train.batch_size=0", "train.batch_size must be above 0, got 0"),
        ("train.batch_size=many", "train.batch_size must be int, got 'many'"),
        ("train.scheduler=cosin", "train.scheduler.*did you mean 'cosine'.*constant"),
        ("train.warmup=2", "train.warmup must be at most 1"),
        ("train.epochs=null", "needs epochs or max_steps"),
        ("train=3", "train must be a mapping"),
        ("prefix_cache=maybe", "prefix_cache must be bool"),
        ("task={}", "task needs a name"),
        ("towers={}", "towers is empty"),
        ("towers.image=3", "towers.image needs a name"),
        ("model={name: vlmo}", "towers and model are both given"),
        ("model={size: base}", "model needs a name"),
        ("rivals.lora=3", "rivals.lora must be a mapping"),
        ("name", "not of the form key.sub=value"),
        ("prefix_cache.sub=1", "prefix_cache must be bool"),
        ("train.seed.sub.deep=1", "train.seed must be int"),
    ],
)
def test_a_bad_key_or_value_is_named_with_what_is_allowed(file, override, said):
    with pytest.raises(ValueError, match=said):
        Recipe.load(file, ["data_root=/data", override])


def test_one_model_takes_the_place_of_towers(file):
    recipe = Recipe.load(file, ["data_root=/data", "towers={}", "model={name: vlmo, size: large}"])
    assert recipe.encoders == {"model": {"name": "vlmo", "size": "large"}}
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_data_root_is_asked_for_where_it_is_needed(file):
    with pytest.raises(ValueError, match="needs the recipe key data_root"):
        Recipe.load(file)


def test_a_missing_or_unreadable_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no recipe .*absent\.yaml"):
        Recipe.load(tmp_path / "absent.yaml")
    for name, text in (("broken", "train: [1"), ("twice", "name: a\nname: b")):
        (tmp_path / f"{name}.yaml").write_text(text)
        with pytest.raises(ValueError, match=rf"{name}\.yaml.* is not YAML"):
            Recipe.load(tmp_path / f"{name}.yaml")


def test_a_file_that_is_no_mapping_is_named(tmp_path):
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    for overrides in ((), ("name=x",), ("train.seed=1",)):
        with pytest.raises(ValueError, match=r"list\.yaml' must be a mapping of keys, got \['a', 'b'\]"):
            Recipe.load(tmp_path / "list.yaml", overrides)


def test_every_field_has_help():
    assert all(help for _, _, help in describe(Recipe))
    assert ("train.batch_size", "32", "rows per step") in describe(Train, "train")


def test_difference_names_dotted_keys():
    assert difference({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4}) == ["a.c", "d"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_shipped_recipes_load(path):
    recipe = Recipe.load(path, ["data_root=/data"])
    assert recipe.name == path.stem
    make_method(recipe.method)
    assert not re.search(r"""[\s"':]/\w""", path.read_text())  # no absolute path

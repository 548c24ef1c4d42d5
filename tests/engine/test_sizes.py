"""Whether all methods can be built is asked before the first run, and costs no weights."""

import copy

import pytest
import torch
from torch import nn

from hmmoe.engine import compare as comparison
from hmmoe.engine import sizes
from hmmoe.engine.compare import compare, recipe_for
from hmmoe.engine.progress import Display
from hmmoe.engine.sizes import check_sizes, without_weights
from hmmoe.methods import METHODS, Budgeted, count_parts, make_method
from small import pair


@pytest.mark.parametrize("name", METHODS)
def test_a_model_without_weights_is_as_large_as_with_them(name):
    tree = {"name": name} | ({"budget": 0.3, "points": 2} if issubclass(METHODS[name], Budgeted) else {})
    with torch.device("meta"):
        bare = make_method(tree).build(without_weights(pair()))
    assert all(p.is_meta for p in bare.parameters())
    assert count_parts(bare) == count_parts(make_method(tree).build(pair()))


def test_shared_weights_stay_shared_and_are_counted_once():
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.BatchNorm1d(3)})
    model["c"] = copy.copy(model["a"])
    bare = without_weights(model)
    assert bare["a"].weight is bare["c"].weight
    assert len(list(bare.parameters())) == len(list(model.parameters())) == 4
    assert all(t.is_meta for t in bare.state_dict().values())
    assert not any(t.is_meta for t in model.state_dict().values())


def test_every_method_that_cannot_meet_its_budget_is_named_with_its_smallest(recipe):
    own = recipe(method={"name": "hmmoe", "budget": 0.05, "points": 2}, variants={"tight": {"budget": 1e-4}})
    trees = {name: recipe_for(own, name).to_dict() for name in ("frozen", "lora", "lavish", "tight")}
    with pytest.raises(ValueError, match="lavish: no rank of lavish meets") as error:
        check_sizes(trees)
    said = str(error.value)
    assert said.count("the smallest share here") == 2
    assert "tight: no rank meets budget=0.0001" in said


def test_the_smallest_share_that_is_said_is_one_that_works(recipe):
    from hmmoe.budget import largest_within

    for backbone in range(1000, 1100):
        with pytest.raises(ValueError, match="smallest share") as error:
            largest_within(1e-9, backbone, lambda rank: 37 * rank, "rank")
        said = float(str(error.value).split(" is ")[1].split(";")[0])
        assert largest_within(said, backbone, lambda rank: 37 * rank, "rank") == 1


def test_a_comparison_asks_before_its_first_run_and_only_for_methods_that_are_new(
    recipe, tmp_path, monkeypatch
):
    asked, ran = [], []

    def here(function, trees):
        asked.append(sorted(trees))
        function(trees)

    def run_all(jobs, *_):
        ran.extend(jobs)
        yield from ()

    monkeypatch.setattr(comparison, "in_worker", here)
    monkeypatch.setattr(comparison, "run_all", run_all)
    own = recipe(method={"name": "hmmoe", "budget": 0.05, "points": 2})
    (tmp_path / "frozen-rate0.003-seed0").mkdir()
    with pytest.raises(ValueError, match=r"lavish: no rank of lavish meets budget=0\.05"):
        compare(own, ["frozen", "hmmoe", "lavish"], seeds=2, folder=tmp_path, display=Display())
    assert asked == [["hmmoe", "lavish"]]
    assert not ran


def test_points_that_fit_no_tower_are_found_and_what_needs_weights_is_left_to_the_run(recipe, monkeypatch):
    tree = recipe(method={"name": "lora", "budget": 0.4, "points": [{"sound": 1}]}).to_dict()
    with pytest.raises(ValueError, match="a: unknown stream in points 'sound'"):
        check_sizes({"a": tree})

    class Needy:
        def build(self, model):
            raise NotImplementedError("aten::nonzero on meta")

    monkeypatch.setattr(sizes, "make_method", lambda _: Needy())
    check_sizes({"a": recipe().to_dict()})

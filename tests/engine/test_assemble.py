"""What a recipe may say of towers beyond their names: left out, shared, read at several scales."""

import pytest
import torch
from torch import nn

from hmmoe.backbones import TOWERS
from hmmoe.engine.assemble import assemble, build_model
from hmmoe.engine.recipe import Recipe
from hmmoe.engine.train import train


def test_a_stream_left_out_never_reaches_the_model(recipe, tmp_path, monkeypatch):
    import toy

    seen = []
    original = toy.Encoder.forward
    monkeypatch.setattr(toy.Encoder, "forward", lambda self, x: seen.append(x.shape) or original(self, x))
    metrics = train(recipe(leave_out=["image"], method={"name": "hmmoe", "rank": 2}), tmp_path / "run")
    assert metrics["test"]["accuracy"] >= 0
    parts = assemble(recipe(leave_out=["image"]))
    assert list(parts.collator.towers) == ["text"]
    assert set(parts.model.get_base_model().towers) == {"image", "text"}
    assert {shape[1:] for shape in seen} == {(4, 3)}  # the text's


@pytest.mark.parametrize(
    ("streams", "said"),
    [
        (["imag"], "unknown stream in leave_out of task 'toy' 'imag', did you mean 'image'"),
        (["image", "text"], "leave_out names all streams of task 'toy'"),
    ],
)
def test_what_cannot_be_left_out_is_said(recipe, streams, said):
    with pytest.raises(ValueError, match=said):
        assemble(recipe(leave_out=streams))


def test_the_head_is_told_the_widths_of_the_levels_it_asks_for(recipe):
    import toy

    class Task(toy.ToyTask):
        levels = {"image": 2}  # noqa: RUF012

        def head(self, widths):
            self.told = widths
            return nn.Identity()

    task = Task()
    model = build_model(task, {"image": TOWERS["toy-image"](), "text": TOWERS["toy-text"]()})
    width = task.told["image"]
    assert {"image/0": width, "image/1": width}.items() <= task.told.items()
    assert model.levels.blocks == {"image": [1, 3]}


def test_a_shared_tower_is_one_module(recipe, monkeypatch):
    import toy

    from hmmoe.backbones.tower import Tower

    vision = toy.tower("image", 16)
    monkeypatch.setattr(toy.ToyTask, "streams", {"text": "audio", "image": "image"})
    towers = {"text": {"name": "shared", "of": "image", "size": 16}, "image": {"name": "toy-image"}}
    monkeypatch.setitem(TOWERS, "toy-image", lambda: Tower(vision.module, vision.preprocess, "image", 16))
    parts = assemble(recipe(towers=towers, method={"name": "frozen"}))
    assert parts.model.towers["text"] is parts.model.towers["image"] is vision.module
    assert list(parts.towers) == ["text", "image"]
    assert torch.is_tensor(next(parts.model.towers["text"].parameters()))


def test_leave_out_is_part_of_the_recipe(recipe):
    assert Recipe.from_dict(recipe(leave_out=["image"]).to_dict()).leave_out == ["image"]

"""VALOR by recipe: frames, sound and words of a task, for every method."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
import toy
from systems import some_steps, words_folder
from valor_reference import small_config

from hmmoe.engine.assemble import assemble
from hmmoe.engine.recipe import Recipe
from hmmoe.engine.train import train
from hmmoe.streams import PrefixCache
from hmmoe.tasks import TASKS

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "is",
    "it",
    "bright",
    "dark",
    "answer",
    "the",
    "question",
]


class Head(nn.Module):
    def __init__(self, widths):
        super().__init__()
        self.answer = nn.ModuleDict({m: nn.Linear(d, 2) for m, d in widths.items()})

    def forward(self, states, masks):
        return sum(self.answer[m](x.flatten(1, -2).mean(1)) for m, x in states.items())

    def loss(self, logits, labels):
        return nn.functional.cross_entropy(logits, labels)


class Asked(toy.ToyTask):
    """The toy task with two frames, and a sound that every third row lacks."""

    name = "toy_asked"
    streams = {"frames": "image", "sound": "audio", "text": "text"}  # noqa: RUF012
    folded = ("frames", "sound")

    def read(self, split, row):
        read = super().read(split, row)
        wave = np.random.default_rng(row).normal(size=4000).astype(np.float32) / 9
        sound = None if row % 3 == 1 else [(wave, 16000)] * 2
        return {"frames": [read.pop("image")] * 2, "sound": sound, **read}

    def head(self, widths):
        return Head(widths)

    def show(self, row, logits=None):
        return super().show({**row, "image": row["frames"][0]}, logits)


class Apart(Asked):
    """With the text in a group of its own."""

    name = "toy_apart"
    groups = [["frames", "sound"], ["text"]]  # noqa: RUF012


class Picture(toy.ToyTask):
    """A picture and a question, no sound."""

    name = "toy_picture"

    def head(self, widths):
        return Head(widths)


TASKS |= {task.name: task for task in (Asked, Apart, Picture)}


@pytest.fixture(scope="session")
def words(tmp_path_factory):
    return words_folder(tmp_path_factory, WORDS)


@pytest.fixture
def recipe(words):
    def make(task="toy_asked", **changes):
        tree = copy.deepcopy(toy.RECIPE)
        del tree["towers"]
        tree["task"] = {"name": task, "validation_rows": 4, "test_rows": 4}
        sizes = {k: v for k, v in small_config().to_dict().items() if k.endswith(("_config", "_dim"))}
        tree["model"] = {"name": "valor", "tokenizer": words, "config": sizes}
        tree["train"] |= {"epochs": None, "max_steps": 2, "evaluations": 1, "learning_rate": 3e-3}
        return Recipe.from_dict({**tree, **changes})

    return make


def batch(parts, rows=range(4)):
    data = parts.task.dataset("train")
    return parts.collator([data[i] for i in rows])


@pytest.mark.parametrize("task", ["toy_asked", "toy_apart"])
@pytest.mark.parametrize("method", ["hmmoe", "lora", "adapter_parallel", "uniadapter", "full", "frozen"])
def test_every_method_takes_steps_in_which_all_that_learns_has_a_gradient(task, method, recipe):
    options = {} if method in ("full", "frozen") else {"rank": 2}
    parts = assemble(recipe(task, method={"name": method, **options}))
    model, inputs = parts.model.train(), batch(parts)
    losses, idle = some_steps(model, inputs)
    assert losses[-1] < losses[0]
    if method != "full":  # which trains the heads of pre-training too
        assert idle == set()


@pytest.mark.parametrize("task", ["toy_asked", "toy_apart"])
def test_words_change_when_the_media_do_only_where_the_task_lets_them_meet(task, recipe):
    parts = assemble(recipe(task, method={"name": "hmmoe", "rank": 2}))
    model, inputs = parts.model.eval(), batch(parts)
    for p in model.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.2)
    states = model(**inputs, output_states=True).states
    inputs["frames"]["pixel_values"] += 1
    changed = model(**inputs, output_states=True).states
    assert not torch.allclose(changed["sound"][0], states["sound"][0])
    assert torch.allclose(changed["text"], states["text"]) == (task == "toy_apart")


def test_the_sound_that_a_row_lacks_is_not_read(recipe):
    parts = assemble(recipe(method={"name": "hmmoe", "rank": 2}))
    model, inputs = parts.model.eval(), batch(parts)
    assert inputs["present"]["sound"].tolist() == [True, False, True, True]
    states = model(**inputs, output_states=True).states
    inputs["sound"]["audio_values"][1] = 3.0
    again = model(**inputs, output_states=True).states
    assert torch.equal(again["text"], states["text"])


def test_a_batch_without_any_sound_learns(recipe):
    parts = assemble(recipe(method={"name": "hmmoe", "rank": 2}))
    inputs = batch(parts, (1, 4))
    assert "sound" not in inputs
    output = parts.model.train()(**inputs, output_states=True)
    output.loss.backward()
    assert output.loss.isfinite()
    assert set(output.states) == {"frames", "text"}


def test_a_picture_is_a_video_of_one_frame_and_audio_may_be_missing(recipe):
    parts = assemble(recipe("toy_picture", method={"name": "hmmoe", "rank": 2}))
    states = parts.model(**batch(parts), output_states=True).states
    assert states["image"].shape == (4, 17, 32)
    assert states["text"].shape == (4, 30, 24)


def test_a_run_from_recipe_to_report(recipe, tmp_path):
    metrics = train(recipe(method={"name": "hmmoe", "rank": 2}), tmp_path / "run")
    assert set(metrics["test"]) >= {"accuracy"}
    assert "model: valor" in (tmp_path / "run" / "report.html").read_text()


def test_streams_that_it_does_not_read_are_told(recipe):
    class Two(Asked):
        name = "toy_two"
        streams = {"left": "image", "right": "image", "text": "text"}  # noqa: RUF012

    TASKS["toy_two"] = Two
    with pytest.raises(ValueError, match="reads image, audio and text, at least two of them"):
        assemble(recipe("toy_two"))


@pytest.mark.parametrize("task", ["toy_asked", "toy_apart"])
@pytest.mark.parametrize("method", [{"name": "frozen"}, {"name": "hmmoe", "rank": 2, "points": 1}])
def test_what_a_prefix_cache_remembers_changes_nothing(task, method, recipe):
    parts = assemble(recipe(task, method=method))
    model, inputs = parts.model.eval(), batch(parts)
    for p in model.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.2)
    plain = model(**inputs).logits
    with PrefixCache(model):
        torch.testing.assert_close(model(**inputs).logits, plain)
        torch.testing.assert_close(model(**inputs).logits, plain)

"""VALOR that writes, by recipe: hidden words in training, captions where no words are given."""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
import toy
from systems import some_steps, words_folder
from valor_reference import small_config

from hmmoe.engine.assemble import assemble
from hmmoe.engine.evaluate import evaluate
from hmmoe.engine.recipe import Recipe
from hmmoe.engine.train import train
from hmmoe.tasks import TASKS
from hmmoe.tasks.writing import Writing

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dark", "bright", "square", "describe", "the"]
COUNT = {"train": 16, "validation": 4, "test": 4}


class Drawn(Writing):
    """Pictures that are dark or bright, and say so; every third has no sound."""

    name = "toy_drawn"
    streams = {"image": "image", "sound": "audio", "text": "text"}  # noqa: RUF012
    folded = ("sound",)

    @property
    def captioned(self):
        say = ("a dark square", "a bright square")
        return {s: [(f"{s}/{i}", [say[i % 2]]) for i in range(n)] for s, n in COUNT.items()}

    def media(self, item):
        row = int(item.rpartition("/")[2])
        picture = np.full((16, 16, 3), 40 + 160 * (row % 2), np.uint8)
        wave = np.random.default_rng(row).normal(size=4000).astype(np.float32) / 9
        return {"image": picture, "sound": None if row % 3 == 1 else [(wave, 16000)] * 2}

    def part(self, stream, data):
        return {"stream": stream, "kind": "text", "data": stream}


TASKS[Drawn.name] = Drawn


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return words_folder(tmp_path_factory, WORDS)


@pytest.fixture
def recipe(words):
    def make(method="hmmoe", **steps):
        tree = copy.deepcopy(toy.RECIPE)
        del tree["towers"]
        tree["task"] = {"name": Drawn.name}
        tree["method"] = {"name": method, **({} if method == "frozen" else {"rank": 4})}
        sizes = {k: v for k, v in small_config().to_dict().items() if k.endswith(("_config", "_dim"))}
        # Frozen random words must differ enough for a head to tell them apart.
        sizes["text_config"]["initializer_range"] = 0.2
        config = sizes | {"initializer_range": 0.2}
        tree["model"] = {"name": "valor", "tokenizer": words, "config": config}
        tree["train"] = {"batch_size": 8, "evaluations": 1, "learning_rate": 1e-2, "max_steps": 2, **steps}
        return Recipe.from_dict(tree)

    return make


def batch(parts, split, rows=range(4)):
    data = parts.task.dataset(split)
    return parts.collator([data[i] for i in rows])


@pytest.mark.parametrize("method", ["hmmoe", "lora", "adapter_parallel", "frozen"])
def test_hidden_words_are_learned_and_everything_that_learns_has_a_gradient(method, recipe):
    parts = assemble(recipe(method))
    model, inputs = parts.model.train(), batch(parts, "train", range(8))
    losses, idle = some_steps(model, inputs, count=6, rate=1e-2, seed=0)  # the same words are hidden
    assert losses[-1] < losses[0]
    assert idle == set()


def test_without_words_it_writes_what_the_model_itself_would(recipe):
    parts = assemble(recipe("frozen"))
    model, inputs = parts.model.eval(), batch(parts, "test")
    assert "text" not in inputs
    output = model(**inputs)
    assert output.loss == 0
    valor = model.towers["valor"]
    want = valor.generate(
        inputs["image"]["pixel_values"][:, None],
        inputs["sound"]["audio_values"],
        inputs["present"]["sound"],
        **model._prompt(4),
        start_id=2,
        end_id=3,
        mask_id=4,
        num_beams=3,
    )
    assert torch.equal(output.logits[:, : want.shape[1]], want)
    assert not output.logits[:, want.shape[1] :].any()
    assert output.logits.shape == (4, 30)


def test_a_word_does_not_see_those_after_it(recipe):
    model = assemble(recipe("frozen")).model.eval()
    given = {"video": {"pixel_values": torch.randn(1, 1, 3, 32, 32)}}
    ids = torch.tensor([[2, 5, 6, 8, 3]])
    other = torch.tensor([[2, 5, 6, 9, 3]])
    a, b = (model._run({**given, "text": {"input_ids": x}}, {})["text"] for x in (ids, other))
    torch.testing.assert_close(a[:, :3], b[:, :3])
    assert not torch.allclose(a[:, 3:], b[:, 3:])


def test_a_run_learns_to_write_is_scored_and_written_down(recipe, tmp_path, monkeypatch):
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setattr("hmmoe.tasks.captions._has_java", lambda: False)  # which takes its time to start
    done = train(recipe(max_steps=50), tmp_path / "run")
    assert done["test"]["cider"] > 5
    assert {"bleu4", "rouge_l", "cider"} <= done["test"].keys()
    result = evaluate(tmp_path / "run")
    assert result.metrics["cider"] == done["test"]["cider"]
    content = result.task.result("test", range(4), result.logits)["test_captions.json"]
    assert '{"video_id": "test/1", "caption": "a bright square"}' in content


def test_only_a_system_that_writes_can_run_the_task():
    with pytest.raises(ValueError, match=r"task 'toy_drawn' needs a model that writes"):
        Drawn().head({"image": 4, "text": 4})

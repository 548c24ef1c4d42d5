"""VLMo by recipe: the streams of a task are spans of its sequence, for every method."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from transformers import BertTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
import toy

from hmmoe.engine.assemble import assemble
from hmmoe.engine.recipe import Recipe
from hmmoe.tasks import TASKS

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "fusion_layer": 2,
    "vocab_size": 50,
    "max_text_length": 8,
}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "is", "it", "bright", "dark", "?"]


class PairTask(toy.ToyTask):
    """The toy task with its picture and an unchanging one."""

    name = "toy_pair"
    streams = {"left": "image", "right": "image", "text": "text"}  # noqa: RUF012

    def read(self, split, row):
        read = super().read(split, row)
        return {
            "left": read["image"],
            "right": read["image"] * 0,
            "text": read["text"],
            "label": read["label"],
        }


TASKS["toy_pair"] = PairTask


@pytest.fixture(scope="session")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def recipe(words):
    def make(task="toy", **changes):
        tree = copy.deepcopy(toy.RECIPE)
        del tree["towers"]
        tree["task"] = {"name": task}
        tree["model"] = {"name": "vlmo", "tokenizer": words, "image_size": 32, "config": SIZES}
        tree["train"] |= {"epochs": None, "max_steps": 2, "evaluations": 1, "learning_rate": 3e-3}
        return Recipe.from_dict({**tree, **changes})

    return make


def batch(parts):
    rows = parts.task.dataset("train")
    return parts.collator([rows[i] for i in range(3)])


tasks = pytest.mark.parametrize("task", ["toy", "toy_pair"])


@tasks
@pytest.mark.parametrize("method", ["hmmoe", "lora", "adapter_parallel", "uniadapter", "full", "frozen"])
def test_every_method_takes_a_step_in_which_all_that_learns_has_a_gradient(task, method, recipe):
    options = {} if method in ("full", "frozen") else {"rank": 2}
    parts = assemble(recipe(task, method={"name": method, **options}))
    model, inputs = parts.model.train(), batch(parts)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(3):
        loss = model(**inputs).loss
        loss.backward()
        idle = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    if method != "full":  # which trains the feed-forward experts of single modalities too
        assert idle == set()

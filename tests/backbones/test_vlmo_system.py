"""VLMo by recipe: the streams of a task are spans of its sequence, for every method."""

import copy
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))
import toy
from systems import some_steps, words_folder

from hmmoe.backbones.vlmo.convert import official_name
from hmmoe.engine.assemble import assemble
from hmmoe.engine.evaluate import evaluate
from hmmoe.engine.recipe import Recipe
from hmmoe.engine.train import train
from hmmoe.streams import PrefixCache
from hmmoe.tasks import TASKS
from hmmoe.tasks.heads import PooledHead

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
    return words_folder(tmp_path_factory, WORDS)


@pytest.fixture
def recipe(words):
    def make(task="toy", **changes):
        tree = copy.deepcopy(toy.RECIPE)
        del tree["towers"]
        tree["task"] = {"name": task, "validation_rows": 4, "test_rows": 4}
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
    losses, idle = some_steps(model, inputs)
    assert losses[-1] < losses[0]
    if method != "full":  # which trains the feed-forward experts of single modalities too
        assert idle == set()


def states(parts, inputs):
    return parts.model(**inputs, output_states=True).states


def test_the_head_gets_each_streams_tokens_and_the_models_own_summary(recipe):
    parts = assemble(recipe(method={"name": "frozen"}))
    found, vlmo = states(parts, batch(parts)), parts.towers["text"].module
    assert {m: tuple(x.shape) for m, x in found.items()} == {
        "text": (3, 8, 24),
        "image": (3, 5, 24),
        "pooled": (3, 1, 24),
    }
    inputs = batch(parts)
    whole = vlmo(**inputs["text"], **inputs["image"])
    assert torch.equal(torch.cat([found["text"], found["image"]], 1), whole.last_hidden_state)
    assert torch.equal(found["pooled"][:, 0], whole.pooler_output)


@tasks
def test_the_published_head_reads_the_models_own_summary(task, recipe):
    parts = assemble(recipe(task, method={"name": "frozen"}))
    widths = {"text": 24, "pooled": 24 * len(parts.model.images), **dict.fromkeys(parts.model.images, 24)}
    head, found = PooledHead(widths, 5, "own"), states(parts, batch(parts))
    assert [m.weight.shape[0] for m in head.answer if isinstance(m, torch.nn.Linear)] == [48, 5]
    assert torch.equal(head(found, {}), head.answer(found["pooled"][:, 0]))
    with pytest.raises(ValueError, match="head: own needs a model with a summary of its own"):
        PooledHead({"text": 24}, 5, "own")


def test_two_images_are_two_passes_of_nlvr2(recipe):
    parts = assemble(recipe("toy_pair", method={"name": "frozen"}))
    inputs, vlmo = batch(parts), parts.towers["text"].module
    found = states(parts, inputs)
    for turn, m in enumerate(("left", "right")):
        types = torch.full((3,), turn + 1)
        whole = vlmo(**inputs["text"], **inputs[m], image_token_type_ids=types)
        torch.testing.assert_close(found[m], whole.last_hidden_state[:, 8:])
        torch.testing.assert_close(found["text"].chunk(2, 1)[turn], whole.last_hidden_state[:, :8])
        torch.testing.assert_close(found["pooled"][:, 0].chunk(2, -1)[turn], whole.pooler_output)


def test_the_two_images_see_each_other_through_the_adapter_and_only_through_it(recipe):
    parts = assemble(recipe("toy_pair", method={"name": "hmmoe", "rank": 2}))
    model, inputs = parts.model.eval(), batch(parts)
    for p in model.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.2)
    changed = {**inputs, "right": {"pixel_values": inputs["right"]["pixel_values"] + 1}}
    assert set(model.peft_config["default"].spans) == {"text", "left", "right"}
    assert not torch.allclose(states(parts, changed)["left"], states(parts, inputs)["left"])
    with model.disable_adapter():
        assert torch.equal(states(parts, changed)["left"], states(parts, inputs)["left"])


@tasks
def test_what_a_prefix_cache_remembers_changes_nothing(task, recipe):
    parts = assemble(recipe(task, method={"name": "hmmoe", "rank": 2, "points": 2}))
    model, inputs = parts.model.eval(), batch(parts)
    plain = model(**inputs).logits
    with PrefixCache(model):
        first = model(**inputs).logits
        torch.testing.assert_close(first, plain)
        torch.testing.assert_close(model(**inputs).logits, plain)


def test_a_run_from_recipe_to_report_loads_again(recipe, tmp_path):
    metrics = train(recipe(method={"name": "hmmoe", "rank": 2}), tmp_path / "run")
    again = evaluate(tmp_path / "run")
    assert again.metrics["accuracy"] == metrics["test"]["accuracy"]
    assert "model: vlmo" in (tmp_path / "run" / "report.html").read_text()


def test_official_weights_and_saved_folders_load_alike(recipe, tmp_path):
    parts = assemble(recipe(method={"name": "frozen"}))
    vlmo = parts.towers["text"].module
    vlmo.save_pretrained(tmp_path / "folder")
    official = {official_name(name): weight for name, weight in vlmo.state_dict().items()}
    torch.save({"state_dict": official}, tmp_path / "official.pt")
    model = recipe().model
    for path in ("folder", "official.pt"):
        again = assemble(recipe(method={"name": "frozen"}, model={**model, "path": str(tmp_path / path)}))
        loaded = again.towers["text"].module.state_dict()
        assert all(torch.equal(weight, loaded[name]) for name, weight in vlmo.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "vlmoo"}, "unknown model 'vlmoo', did you mean 'vlmo'"),
        ({"sise": "base"}, "option of model 'vlmo' 'sise', did you mean 'size'"),
        ({"size": "huge"}, "unknown VLMo size 'huge'"),
        ({"path": "absent.pt"}, "path of model 'vlmo' does not exist"),
    ],
)
def test_what_does_not_fit_is_told(changes, said, recipe):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        assemble(recipe(model={**recipe().model, **changes}))


def test_a_question_without_an_image_is_told(recipe):
    parts = assemble(recipe(method={"name": "frozen"}))
    inputs = batch(parts)
    with pytest.raises(ValueError, match="words and images together, but stream 'image' is missing"):
        parts.model(text=inputs["text"])
    with pytest.raises(ValueError, match="stream 'image' is missing"):
        parts.model(**inputs, present={"image": torch.tensor([True, False, True])})

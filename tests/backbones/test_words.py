"""Words as they are, and a model one of whose streams has no weights."""

import pytest
import torch

from hmmoe import HMMoEConfig, MultimodalModel, get_peft_model
from hmmoe.backbones import load_tower
from small import LinearHead, collate, pair, rows

VOCABULARY = ["<pad>", "how", "many", "cello"]


def test_words_are_one_hot_padding_is_masked_and_unknown_ones_are_zeros():
    tower = load_tower("words", vocabulary=VOCABULARY, max_length=5)
    inputs = tower.preprocess(["how many cello?", "how odd？"])
    assert inputs["input_ids"].tolist() == [[1, 2, 3, 0, 0], [1, -1, 0, 0, 0]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]
    states = tower.module(**inputs).last_hidden_state
    assert states.shape == (2, 5, 4)
    assert states[0].argmax(-1).tolist() == [1, 2, 3, 0, 0]
    assert states[1, 1].sum() == 0


@pytest.mark.parametrize("vocabulary", [None, ["how"], ["how", "many"]])
def test_a_vocabulary_is_needed(vocabulary):
    with pytest.raises(
        ValueError, match="tower 'words' needs vocabulary, a list of words that begins with <pad>"
    ):
        load_tower("words", vocabulary=vocabulary)


def test_a_stream_without_weights_meets_nobody_and_reaches_the_head():
    words = load_tower("words", vocabulary=VOCABULARY)
    towers = dict(pair().towers.items()) | {"question": words.module}
    model = MultimodalModel(towers, LinearHead({"image": 16, "text": 24, "question": 4}))
    model = get_peft_model(model, HMMoEConfig(rank=2, modules_to_save=["head"]))
    assert all(set(point) == {"image", "text"} for point in model.peft_config["default"].points)
    batch = collate(rows(2)) | {"question": words.preprocess(["how many", "cello"])}
    model(**batch).loss.backward()
    assert model.base_model.parameter_counts()["adapter"] > 0
    assert torch.isfinite(model(**batch).loss)

"""Rows become a model's keyword inputs, raw or prepared alike."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hmmoe.data import Collator, MediaError, Prepared

TASK = SimpleNamespace(streams={"video": "image", "text": "text"}, folded=("video",))


def _pixels(items):
    return {"pixel_values": torch.stack([torch.as_tensor(i, dtype=torch.float32) for i in items])}


def _letters(items):
    return {
        "input_ids": torch.tensor([[len(i), 0] for i in items]),
        "attention_mask": torch.tensor([[1, 0]] * len(items)),
    }


TOWERS = {"video": SimpleNamespace(preprocess=_pixels), "text": SimpleNamespace(preprocess=_letters)}


class Rows:
    """Three rows; row `broken` does not decode."""

    def __init__(self, broken=None):
        self.broken, self.reads = broken, 0

    def __len__(self):
        return 3

    def __getitem__(self, i):
        self.reads += 1
        if i == self.broken:
            raise MediaError(f"image row {i} cannot be decoded: cut")
        return {"index": 10 + i, "video": np.full((4, 2, 2), i), "text": "x" * i, "label": i}


def test_raw_rows_are_preprocessed_and_folded():
    batch = Collator(TOWERS, TASK)([Rows()[i] for i in range(3)])
    assert batch["index"].tolist() == [10, 11, 12]
    assert batch["labels"].tolist() == [0, 1, 2]
    assert batch["video"]["pixel_values"].shape == (3, 4, 2, 2)
    assert batch["video"]["pixel_values"][2].unique().tolist() == [2]
    assert batch["text"]["input_ids"].tolist() == [[0, 0], [1, 0], [2, 0]]
    assert "present" not in batch


def test_prepared_rows_give_the_same_batch_and_are_read_once():
    rows = Rows()
    prepared = Prepared(rows, TOWERS, TASK)
    collate = Collator(TOWERS, TASK)
    want = collate([Rows()[i] for i in range(3)])
    for _ in range(2):
        got = collate([prepared[i] for i in range(3)])
        for stream in TOWERS:
            for key in want[stream]:
                assert torch.equal(want[stream][key], got[stream][key])
        assert torch.equal(want["labels"], got["labels"])
    assert rows.reads == 3


def test_rows_beyond_the_limit_are_prepared_each_time():
    rows = Rows()
    prepared = Prepared(rows, TOWERS, TASK, limit_mib=0)
    assert prepared[1]["text"]["input_ids"].tolist() == prepared[1]["text"]["input_ids"].tolist() == [1, 0]
    assert rows.reads == 2


def test_a_stream_missing_everywhere_is_left_out():
    rows = [{**Rows()[i], "text": None} for i in range(2)]
    assert "text" not in Collator(TOWERS, TASK)(rows)


def test_a_stream_missing_in_some_rows_is_filled_and_marked():
    rows = [{**Rows()[1], "text": None}, Rows()[2]]
    batch = Collator(TOWERS, TASK)(rows)
    assert batch["present"]["text"].tolist() == [False, True]
    assert batch["text"]["input_ids"].tolist() == [[0, 0], [2, 0]]
    assert set(batch["present"]) == {"text"}


def test_rows_without_labels_give_none():
    assert "labels" not in Collator(TOWERS, TASK)([{**Rows()[0], "label": None}])


def test_a_tower_for_no_stream_is_refused():
    with pytest.raises(ValueError, match=r"no stream 'sound'.*video, text"):
        Collator({"sound": TOWERS["text"]}, TASK)


def test_folded_rows_of_different_length_are_refused():
    with pytest.raises(ValueError, match=r"'video'.*2, 4"):
        Collator(TOWERS, TASK)([Rows()[0], {**Rows()[1], "video": np.zeros((2, 2, 2))}])


def test_a_broken_row_stops_unless_the_recipe_says_skip():
    with pytest.raises(MediaError, match="row 1"):
        Prepared(Rows(broken=1), TOWERS, TASK)[1]
    kept = Prepared(Rows(broken=1), TOWERS, TASK, skip_broken=True)
    assert len(kept) == 2
    assert [kept[i]["label"] for i in range(2)] == [0, 2]
    assert kept.skipped == ["image row 1 cannot be decoded: cut"]


def test_fill_reports_every_row():
    seen = []
    Prepared(Rows(), TOWERS, TASK).fill(lambda: seen.append(1))
    assert len(seen) == 3

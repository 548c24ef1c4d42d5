"""Retrieval from three modalities: rows and the scores of a whole split."""

import pytest
import torch
from packs import flickr8k

from hmmoe.tasks.flickr8k import Flickr8k


def test_rows_pair_a_picture_with_its_first_caption_and_that_ones_speech(tmp_path):
    row = Flickr8k(flickr8k(tmp_path)).dataset("test")[2]
    assert (row["text"], row["label"]) == ("first 2", 2)
    assert row["speech"][1] == 16000


def test_training_rows_are_all_captions_of_which_only_the_first_is_spoken(tmp_path):
    rows = Flickr8k(flickr8k(tmp_path)).dataset("train")
    assert [rows[i]["label"] for i in range(4)] == [0, 0, 1, 1]
    assert (rows[3]["text"], rows[3]["speech"]) == ("second", None)
    assert rows[2]["speech"][1] == 16000


def test_scores_are_of_the_whole_split_in_both_directions(tmp_path):
    task = Flickr8k(flickr8k(tmp_path))
    image = torch.eye(12)
    query = image.roll(1, 0)  # each query is most like the image before its own
    query[0] = image[0]
    scores = task.metrics({"image": image, "query": query}, torch.arange(12))
    assert scores["to_image_r1"] == pytest.approx(100 / 12)
    assert scores["to_image_r10"] == pytest.approx(100 / 12)  # a tie counts against us
    recalls = [scores[f"{d}_r{k}"] for d in ("to_image", "to_query") for k in (1, 5, 10)]
    assert scores["mean_recall"] == pytest.approx(sum(recalls) / 6)


def test_the_real_pack_has_the_documented_sizes(shared):
    task = Flickr8k(shared / "packs" / "flickr8k_1k")
    assert [task.size(s) for s in ("train", "validation", "test")] == [3500, 100, 200]
    row = task.dataset("validation")[0]
    assert min(row["image"].shape[:2]) == 128
    assert row["text"].endswith(".")
    assert len(row["speech"][0]) > 16000

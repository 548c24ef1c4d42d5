"""Retrieval from three modalities: the joint head, its loss and the scores of a whole split."""

import math

import pytest
import torch
from packs import flickr8k
from torch.nn import functional as F
from torch.testing import assert_close

from hmmoe.tasks.flickr8k import Flickr8k, JointHead
from hmmoe.tasks.heads import summary

WIDTHS = {"image": 6, "text": 4, "speech": 5}


def _states(batch=3):
    return {m: torch.randn(batch, 7, width) for m, width in WIDTHS.items()}


def test_rows_pair_a_picture_with_its_first_caption_and_that_ones_speech(tmp_path):
    row = Flickr8k(flickr8k(tmp_path)).dataset("test")[2]
    assert (row["text"], row["label"]) == ("first 2", 2)
    assert row["speech"][1] == 16000


def test_both_sides_have_length_one_and_the_query_is_the_sum_of_its_streams():
    head, states = JointHead(WIDTHS, 8), _states()
    out = head(states, dict.fromkeys(states))
    assert_close(out["image"].norm(dim=-1), torch.ones(3))
    parts = [head.project[m](summary(states[m], None)) for m in ("text", "speech")]
    assert_close(out["query"], F.normalize(parts[0] + parts[1], dim=-1))


def test_a_query_may_lack_speech_or_text():
    head, states = JointHead(WIDTHS, 8), _states()
    only = {m: x for m, x in states.items() if m != "speech"}
    out = head(only, dict.fromkeys(only))
    assert_close(out["query"], F.normalize(head.project["text"](summary(states["text"], None)), dim=-1))
    assert set(head({"image": states["image"]}, {})) == {"image"}


def test_the_loss_is_symmetric_infonce():
    head = JointHead(WIDTHS, 8)
    q, g = F.normalize(torch.randn(3, 8), dim=-1), F.normalize(torch.randn(3, 8), dim=-1)
    want = 0.0
    for a, b in ((q, g), (g, q)):
        for i in range(3):
            scores = [math.exp((a[i] @ b[j]).item() / 0.07) for j in range(3)]
            want -= math.log(scores[i] / sum(scores)) / 6
    assert head.loss({"query": q, "image": g}, torch.arange(3)).item() == pytest.approx(want, rel=1e-4)


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


def test_a_side_without_a_stream_is_refused():
    with pytest.raises(ValueError, match="needs the stream image and one of text and speech, got text"):
        JointHead({"text": 4}, 8)


def test_the_real_pack_has_the_documented_sizes(shared):
    task = Flickr8k(shared / "packs" / "flickr8k_1k")
    assert [task.size(s) for s in ("train", "validation", "test")] == [700, 100, 200]
    row = task.dataset("validation")[0]
    assert min(row["image"].shape[:2]) == 128
    assert row["text"].endswith(".")
    assert len(row["speech"][0]) > 16000

"""NLVR2 in its official files, and the pack of NLVR's drawings."""

import json

import numpy as np
import pytest
import torch
from text_visual import nlvr2, nlvr_v1
from torch.nn import functional as F
from torch.testing import assert_close

from hmmoe.data import MediaError, Prepared
from hmmoe.tasks.heads import summary
from hmmoe.tasks.items import ItemsHead
from hmmoe.tasks.nlvr1 import NLVR1, boxes
from hmmoe.tasks.nlvr2_task import NLVR2


def _labels(task, split="test"):
    return torch.tensor(np.stack([row["label"] for row in task.dataset(split)]))


def test_nlvr2_reads_a_sentence_and_the_two_photographs_of_its_pair(tmp_path):
    task = NLVR2(nlvr2(tmp_path))
    row = task.dataset("validation")[2]
    assert row["text"] == "sentence 0"
    assert row["label"].tolist()[0] == 0
    assert row["left"].shape == row["right"].shape == (8, 8, 3)
    assert not np.array_equal(row["left"], row["right"])
    assert task.examples["validation"][2].picture(1) == "dev-3-1-img1.png"
    assert task.show(row)["target"] == "false"


def test_nlvr2_finds_photographs_beside_the_annotations_or_without_directories(tmp_path):
    nlvr2(tmp_path)
    (tmp_path / "images" / "dev").rename(tmp_path / "dev")
    for file in (tmp_path / "images" / "train" / "7").iterdir():
        file.rename(tmp_path / "images" / "train" / file.name)
    (tmp_path / "images" / "train" / "7").rmdir()
    task = NLVR2(tmp_path)
    assert len(list(task.dataset("validation"))) == len(list(task.dataset("train"))) == 4


def test_nlvr2_scores_accuracy_and_consistency_over_pairs(tmp_path):
    task = NLVR2(nlvr2(tmp_path))
    labels = _labels(task)
    judged = labels[:, 0].clone()
    judged[0] = 1 - judged[0]
    scores = task.metrics(F.one_hot(judged, 2).float(), labels)
    assert scores == {"accuracy": 75, "consistency": 50}


def test_nlvr2_names_a_photograph_that_is_not_there(tmp_path):
    task = NLVR2(nlvr2(tmp_path))
    (tmp_path / "images" / "dev" / "dev-3-0-img1.png").unlink()
    with pytest.raises(MediaError, match=r"dev-3-0-img1\.png of example dev-3-0-0 does not exist"):
        task.dataset("validation")[0]


def test_nlvr2_skips_and_counts_pairs_whose_photograph_does_not_decode(tmp_path):
    (nlvr2(tmp_path) / "images" / "dev" / "dev-3-1-img0.png").write_bytes(b"no picture")
    task = NLVR2(tmp_path)
    with pytest.raises(MediaError, match=r"dev-3-1-img0\.png of example dev-3-1-0 cannot be decoded"):
        task.dataset("validation")[2]
    rows = Prepared(task.dataset("validation"), {}, task, skip_broken=True)
    assert (len(rows), len(rows.skipped)) == (2, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda row: row.pop("sentence"), r"line 2 of .*dev\.json has no 'sentence'"),
        (lambda row: row.update(label="maybe"), "has the label 'maybe', it should be True or False"),
        (lambda row: row.update(identifier="dev-3"), "line 2 .* should read split-set-pair-sentence"),
        (lambda row: row.update(identifier="dev-3-0-0"), "line 2 .* holds dev-3-0-0 a second time"),
    ],
)
def test_nlvr2_names_a_line_that_is_not_as_it_should_be(tmp_path, change, words):
    file = nlvr2(tmp_path) / "dev.json"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    change(rows[1])
    file.write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(MediaError, match=words):
        NLVR2(tmp_path).size("validation")


def test_nlvr_holds_out_whole_groups_of_dev_and_tests_on_test(tmp_path):
    task = NLVR1(nlvr_v1(tmp_path))
    groups = {split: set(frame.group) for split, frame in task.tables.items()}
    assert not groups["train"] & groups["validation"]
    assert len(groups["train"] | groups["validation"]) == 10
    assert groups["test"] == {"50", "51"}


def test_nlvr_rows_show_a_model_neither_identifier_nor_file_order(tmp_path):
    task = NLVR1(nlvr_v1(tmp_path))
    row = task.dataset("train")[0]
    assert row.keys() == {"index", "image", "text", "label"}
    assert row["image"].shape == (3, 100, 100, 3)


def test_nlvr_judges_groups_as_a_whole_and_new_sentences_apart(tmp_path):
    task = NLVR1(nlvr_v1(tmp_path))
    labels = _labels(task)
    judged = labels[:, 0].clone()
    judged[-1] = 1 - judged[-1]  # of the group whose sentence is new
    scores = task.metrics(F.one_hot(judged, 2).float(), labels)
    known = "sentence 0" in set(task.tables["train"].sentence)
    unseen = 87.5 if known else 100 * 15 / 16
    assert scores == {"precision": 93.75, "consistency": 50, "precision_unseen_sentences": unseen}


def test_a_picture_of_another_size_is_no_nlvr_picture():
    picture = np.arange(100 * 400 * 3).reshape(100, 400, 3)
    assert np.array_equal(boxes(picture)[2], picture[:, 300:])
    with pytest.raises(MediaError, match="is 400 x 100 pixels, this one 100 x 400"):
        boxes(np.zeros((400, 100, 3)))


def test_items_stand_side_by_side_where_their_place_matters_and_are_averaged_elsewhere():
    head = ItemsHead({"image": 4, "text": 3}, 2, places={"image": 2})
    states = {"image": torch.randn(5, 2, 6, 4), "text": torch.randn(5, 7, 3)}
    mask = torch.rand(5, 7) > 0.3
    parts = [summary(states["image"][:, i], None) for i in range(2)] + [summary(states["text"], mask)]
    assert_close(head(states, {"text": mask}), head.pooled.answer(torch.cat(parts, -1)))
    head = ItemsHead({"image": 4, "text": 3}, 2)
    frames = summary(states["image"].flatten(1, 2), None)
    want = head.pooled.answer(torch.cat([frames, summary(states["text"], None)], -1))
    assert_close(head(states, {}), want)


def test_rows_without_a_known_answer_do_not_count_in_the_loss():
    head, logits = ItemsHead({"text": 3}, 4), torch.randn(3, 4)
    labels = torch.tensor([[2, 0], [-1, 1], [0, 2]])
    want = F.cross_entropy(logits[[0, 2]], torch.tensor([2, 0]))
    assert_close(head.loss(logits, labels), want)
    assert head.loss(logits[1:2], labels[1:2]) == 0


def test_the_real_pack_has_the_documented_examples(shared):
    task = NLVR1(shared / "packs" / "nlvr_v1")
    assert task.size("train") + task.size("validation") == 5934
    assert task.size("test") == 5940
    labels = torch.stack(
        [torch.tensor([int(x), 2 * 2**32 + i]) for i, x in enumerate(task.tables["test"].label)]
    )
    scores = task.metrics(F.one_hot(torch.ones(5940, dtype=torch.long), 2).float(), labels)
    assert scores["precision"] == pytest.approx(100 * 556 / 990)
    assert task.dataset("test")[0]["image"].shape == (3, 100, 100, 3)

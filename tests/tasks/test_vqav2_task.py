"""VQAv2 in its official files: questions, vocabulary, soft targets, the official accuracy and bad files."""

import json

import numpy as np
import pytest
import torch
from text_visual import vqav2
from torch.nn import functional as F
from torch.testing import assert_close

from hmmoe.data import Collator, MediaError, Prepared
from hmmoe.tasks.vqa_questions import read_questions
from hmmoe.tasks.vqav2 import soft_targets, vqa_accuracy
from hmmoe.tasks.vqav2_task import AnswersHead, VQAv2, people_targets


@pytest.fixture
def folder(tmp_path):
    return vqav2(tmp_path)


def _change(folder, name, change):
    file = folder / name
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


TRAIN_QUESTIONS = "v2_OpenEnded_mscoco_train2014_questions.json"
TRAIN_ANNOTATIONS = "v2_mscoco_train2014_annotations.json"


def test_the_vocabulary_holds_the_majority_answers_of_enough_questions(folder):
    assert VQAv2(folder).answers == ["yes", "red"]
    with pytest.raises(ValueError, match="leaves no answer"):
        _ = VQAv2(folder, least=99).answers


def test_the_last_tenth_of_the_images_is_for_validation(folder):
    task = VQAv2(folder)
    images = {split: {q.image for q in task.questions[split]} for split in ("train", "validation", "test")}
    assert images == {"train": set(range(1, 19)), "validation": {19, 20}, "test": set(range(101, 106))}


@pytest.mark.parametrize("test_set", ["test-dev2015", "test2015"])
def test_without_public_answers_val2014_is_trained_on_and_test_rows_have_no_label(folder, test_set):
    task = VQAv2(folder, test_set=test_set)
    assert {q.image for q in task.questions["train"]} == {*range(1, 21), 101, 102, 103}
    row = task.dataset("test")[0]
    assert row["label"] is None
    assert row["image"].shape == (8, 8, 3)
    assert task.show(row)["target"] is None


def test_a_training_question_without_a_known_answer_is_left_out_and_still_tested(folder):
    def rename(content):
        for annotation in content["annotations"][:4]:
            for answer in annotation["answers"]:
                answer["answer"] = "unheard of"

    _change(folder, TRAIN_ANNOTATIONS, rename)
    _change(folder, "v2_mscoco_val2014_annotations.json", rename)
    task = VQAv2(folder)
    assert task.size("train") == 2 * 18 - 4
    assert task.size("test") == 10
    assert task.dataset("test")[0]["label"][1:].tolist() == [-1] * 10


def test_targets_of_a_batch_are_those_of_the_pure_function(folder):
    task = VQAv2(folder)
    rows = [task.dataset("train")[i] for i in range(4)]
    columns = torch.tensor(np.stack([row["label"][1:] for row in rows]))
    want = [soft_targets(q.annotation()["answers"], task.columns) for q in task.questions["train"][:4]]
    assert_close(people_targets(columns, 2), torch.stack(want))
    assert_close(people_targets(torch.full((1, 10), -1), 2), torch.zeros(1, 2))


def test_the_loss_is_binary_cross_entropy_summed_over_answers():
    head = AnswersHead({"text": 4}, 3)
    logits = torch.randn(2, 3)
    labels = torch.tensor([[0, 1, 1, 1, 1, 2, -1, -1, -1, -1, -1], [1] + [0] * 10])
    targets = torch.tensor([[0, 1, 0.3], [1, 0, 0]])
    want = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1).mean()
    assert_close(head.loss(logits, labels), want)


def test_scores_are_the_official_ones_overall_and_by_type(folder):
    task = VQAv2(folder)
    labels = torch.tensor(np.stack([row["label"] for row in task.dataset("test")]))
    logits = F.one_hot(torch.tensor([0, 0] * 5), 2).float()  # yes, yes
    scores = task.metrics(logits, labels)
    assert scores == {"accuracy": 50.0, "yes/no": 100.0, "other": 0.0}
    annotation = task.questions["test"][1].annotation()
    assert vqa_accuracy("red", annotation["answers"]) == 1


def test_a_question_whose_image_is_not_there_is_named_or_skipped(folder):
    (folder / "train2014" / "COCO_train2014_000000000003.jpg").unlink()
    (folder / "train2014" / "COCO_train2014_000000000004.jpg").write_bytes(b"no picture")
    task = VQAv2(folder)
    with pytest.raises(MediaError, match=r"0003\.jpg of question 3000 does not exist"):
        task.dataset("train")[4]
    with pytest.raises(MediaError, match=r"0004\.jpg of question 4001 cannot be decoded"):
        task.dataset("train")[7]
    rows = Prepared(task.dataset("train"), {}, task, skip_broken=True)
    assert (len(rows), len(rows.skipped)) == (32, 4)


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        (TRAIN_QUESTIONS, lambda c: c["questions"][2].pop("image_id"), "question 2000 .* has no 'image_id'"),
        (
            TRAIN_QUESTIONS,
            lambda c: c["questions"][2].update(image_id=None),
            "question 2000 .* no image: .* None",
        ),
        (TRAIN_QUESTIONS, lambda c: c["questions"].append(c["questions"][0]), "question 1000 is twice"),
        (TRAIN_QUESTIONS, lambda c: c["questions"].pop(), "question 20001 is annotated, but is not in"),
        (TRAIN_QUESTIONS, lambda c: c.clear(), "has no 'questions'"),
        (TRAIN_ANNOTATIONS, lambda c: c["annotations"].pop(0), "question 1000 .* has no annotation"),
        (
            TRAIN_ANNOTATIONS,
            lambda c: c["annotations"][0]["answers"].pop(),
            "has 9 answers, it should have 10",
        ),
    ],
)
def test_files_that_contradict_themselves_are_refused_by_question(folder, file, change, words):
    _change(folder, file, change)
    with pytest.raises(MediaError, match=words):
        read_questions(folder, "train2014")


def test_a_file_that_is_not_json_is_named(folder):
    (folder / TRAIN_QUESTIONS).write_text("{")
    with pytest.raises(MediaError, match=r"questions\.json is not JSON"):
        read_questions(folder, "train2014")


def test_labels_of_a_batch_are_integers_of_one_shape(folder):
    task = VQAv2(folder)
    batch = Collator({}, task)([task.dataset("train")[i] for i in range(3)])
    assert batch["labels"].shape == (3, 11)
    assert batch["labels"][:, 0].tolist() == batch["index"].tolist()

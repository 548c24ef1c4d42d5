"""easy-VQA: disjoint splits, the package's own figures, broken files."""

import pytest
from packs import easy_vqa

from hmmoe.data import MediaError
from hmmoe.packages import package_folder
from hmmoe.tasks.easy_vqa import EasyVQA


def test_no_picture_is_in_train_and_validation(tmp_path):
    task = EasyVQA(easy_vqa(tmp_path))
    pictures = {split: {q[2] for q in task.questions[split]} for split in ("train", "validation")}
    assert len(pictures["train"]) == 18
    assert len(pictures["validation"]) == 2
    assert not pictures["train"] & pictures["validation"]
    assert (task.size("train"), task.size("validation"), task.size("test")) == (36, 4, 5)


def test_a_row_holds_the_question_of_its_picture_and_the_answers_number(tmp_path):
    task = EasyVQA(easy_vqa(tmp_path))
    row = task.dataset("test")[3]
    assert (row["text"], task.answers[row["label"]]) == ("what shape?", "circle")


def test_broken_questions_and_pictures_are_named(tmp_path):
    easy_vqa(tmp_path)
    (tmp_path / "test" / "images" / "2.png").write_bytes(b"")
    rows = EasyVQA(tmp_path).dataset("test")
    with pytest.raises(MediaError, match=r"2\.png cannot be decoded"):
        rows[2]
    (tmp_path / "test" / "questions.json").write_text('[["what?", "purple", 1]]')
    with pytest.raises(MediaError, match=r"questions\.json cannot be read.*purple"):
        EasyVQA(tmp_path).dataset("test")


def test_the_package_has_the_documented_sizes():
    pytest.importorskip("easy_vqa", reason="needs the extra demo")
    assert (package_folder("easy_vqa", "easy-vqa") / "data").is_dir()
    task = EasyVQA()
    assert len(task.answers) == 13
    assert task.size("train") + task.size("validation") == 38575
    assert task.size("test") == 9673
    assert len(task.dataset("train")) == 2000
    assert task.dataset("train")[0]["image"].shape == (64, 64, 3)

"""MUSIC-AVQA's layout: questions, their answers and types, heads, and what is wrong with a folder."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from generated import avqa
from hmmoe.data.media import MediaError, wav
from hmmoe.data.prepare import data_set, prepare
from hmmoe.tasks.avqa import AVQA, PAD, windows
from hmmoe.tasks.avqa_head import GroundedHead, QuestionLSTM
from official import movie, tone

WIDTHS = {"video": 8, "audio": 6, "text": 5}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return avqa(tmp_path_factory.mktemp("avqa"))


def states(batch: int = 2) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "video": torch.randn(batch, 3, 9, 8),
        "audio": torch.randn(batch, 3, 7, 6),
        "text": torch.randn(batch, 4, 5),
    }


def edit(root, to, split, change):
    """A copy whose questions of a split are changed in place."""
    copy = shutil.copytree(root, to / "copy")
    file = copy / f"avqa-{split}.json"
    entries = json.loads(file.read_text())
    change(entries)
    file.write_text(json.dumps(entries))
    return copy


def test_rows_hold_pictures_windows_of_sound_and_the_question_in_words(root):
    task = AVQA(root, segments=2)
    assert [task.size(s) for s in ("train", "validation", "test")] == [24, 4, 6]
    for row in task.dataset("train"):
        assert row["video"].shape == (2, 32, 32, 3)
        assert [(len(wave), rate) for wave, rate in row["audio"]] == [(16000, 16000)] * 2
        assert row["text"].endswith("?")
        assert "<" not in row["text"]
        assert task.answers[row["label"][0]] in ("left", "right", "yes", "no")


def test_answers_and_vocabulary_are_in_order_of_first_appearance_in_training(root):
    task = AVQA(root)
    told = [entry["anser"] for entry in json.loads((root / "avqa-train.json").read_text())]
    assert task.answers == sorted(set(told), key=told.index)
    assert task.vocabulary[0] == PAD
    first = list(dict.fromkeys(task.read("train", 0)["text"].rstrip("?").split()))
    assert task.vocabulary[1 : len(first) + 1] == first


def test_windows_go_from_the_start_to_the_end_as_lavish_takes_them():
    wave = np.arange(60 * 10, dtype=np.float32)
    found = windows(wave, 10, 3, 1.0)
    assert [piece[0] for piece, _ in found] == [0, 294, 589]
    assert [len(piece) for piece, _ in found] == [10] * 3
    assert [piece.tolist() for piece, _ in windows(wave[:3], 10, 2, 0.5)] == [[0, 1, 2, 0, 0]] * 2


@pytest.mark.parametrize("inside", ["", "data/AVQA"])
def test_the_folders_of_dg_sct_hold_the_same_rows(root, tmp_path, inside):
    home, ours = tmp_path / inside, AVQA(root, segments=2).read("train", 0)
    (home / "json").mkdir(parents=True)
    for file in root.glob("avqa-*.json"):
        shutil.copy(file, home / "json")
    shutil.copytree(root / "frames", home / "frames")
    (home / "audio_wave").mkdir()
    for video in (root / "raw_audio").iterdir():
        pieces = np.arange(2, dtype=np.float32).repeat(32000)  # of each second of theirs, one after the other
        np.save(home / "audio_wave" / f"{video.stem}.npy", pieces)
    theirs = AVQA(tmp_path, segments=2).read("train", 0)
    assert (theirs["video"] == ours["video"]).all()
    assert (theirs["text"], theirs["label"].tolist()) == (ours["text"], ours["label"].tolist())
    assert [(set(wave.tolist()), len(wave), rate) for wave, rate in theirs["audio"]] == [
        ({0.0}, 32000, 32000),
        ({1.0}, 32000, 32000),
    ]


def test_scores_are_by_type_and_pooled_over_questions(root):
    task = AVQA(root, segments=2)
    labels = torch.as_tensor(np.stack([row["label"] for row in task.dataset("test")]))
    right = F.one_hot(labels[:, 0], len(task.answers)).float()
    scores = task.metrics(right, labels)
    assert scores["overall"] == 100
    asked = [json.loads(q.type) for q in task.questions["test"]]
    groups = {group.lower().replace("-", "_") for group, _ in asked}
    assert groups <= set(scores)
    right[0] = 1 - right[0]
    assert task.metrics(right, labels)["overall"] == pytest.approx(100 * 5 / 6)


@pytest.mark.parametrize("question", ["mean", "lstm"])
def test_the_grounded_head_learns_from_all_streams(question):
    head = GroundedHead(WIDTHS, 5, question, channels=16)
    given = {m: x.requires_grad_() for m, x in states().items()}
    mask = torch.tensor([[True, True, True, False], [True, False, False, False]])
    logits = head(given, {"text": mask})
    assert logits.shape == (2, 5)
    head.loss(logits, torch.tensor([[1, 0], [4, 1]])).backward()
    for m, x in given.items():
        assert x.grad.abs().sum() > 0, m
    assert given["text"].grad[1, 1:].abs().sum() == 0  # padding
    for name, p in head.named_parameters():
        assert p.grad is not None, name


def test_an_lstm_reads_as_many_words_as_there_are():
    lstm = QuestionLSTM(5, 8)
    x = torch.randn(2, 4, 5)
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    found = lstm(x, mask)
    torch.testing.assert_close(found[0], lstm(x[:1, :2], None)[0])
    torch.testing.assert_close(found[1], lstm(x[1:], None)[0])


def test_the_grounded_head_looks_where_the_sound_is_and_bears_missing_streams():
    head = GroundedHead(WIDTHS, 5, channels=16).eval()
    given = states()
    for left_out in given:
        rest = {m: x for m, x in given.items() if m != left_out}
        assert head(rest, {}).shape == (2, 5)
    other = given | {"audio": torch.randn_like(given["audio"])}
    assert not torch.allclose(head(given, {}), head(other, {}))


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_the_plain_heads_read_all_tokens_as_one(root, head):
    task = AVQA(root, head=head)
    assert task.head(WIDTHS)(states(), {}).shape == (2, len(task.answers))


def test_predictions_name_the_question(root):
    task = AVQA(root)
    logits = F.one_hot(torch.tensor([1, 0]), len(task.answers)).float()
    files = task.result("test", [3, 5], logits)
    numbers = [task.questions["test"][row].number for row in (3, 5)]
    assert json.loads(files["avqa_test_answers.json"]) == [
        {"question_id": numbers[0], "answer": task.answers[1]},
        {"question_id": numbers[1], "answer": task.answers[0]},
    ]


def test_raw_videos_are_prepared(root, tmp_path):
    raw = shutil.copytree(root, tmp_path / "raw", ignore=shutil.ignore_patterns("frames", "raw_audio"))
    movie(raw / "videos" / "10000000.mp4", [40] * 6, tone(6), fps=1)
    report = prepare(data_set("avqa"), raw, tmp_path / "out")
    assert report.rows["train"] == (1, 24, 32087)
    assert len(report.names("missing")) == 33
    row = AVQA(tmp_path / "out", segments=3).read("train", 0)
    assert row["video"].shape[0] == len(row["audio"]) == 3


def test_missing_files_are_named(root, tmp_path):
    copy = edit(root, tmp_path, "train", lambda entries: None)
    shutil.rmtree(copy / "frames")
    with pytest.raises(MediaError, match=r"the video of avqa clip 30000000 does not exist: no frames/"):
        AVQA(copy).read("test", 0)
    (copy / "raw_audio" / "30000000.wav").unlink()
    with pytest.raises(MediaError, match="the sound of avqa clip 30000000 does not exist"):
        AVQA(copy).read("test", 0)
    (copy / "avqa-val.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"avqa-val.json, MUSIC-AVQA's validation questions, does not"
    ):
        AVQA(copy).size("train")


def test_silence_is_kept_or_refused_as_the_recipe_says(root, tmp_path):
    copy = edit(root, tmp_path, "train", lambda entries: None)
    (copy / "raw_audio" / "30000000.wav").write_bytes(wav(np.zeros(32000, np.float32), 16000))
    assert len(AVQA(copy, segments=2).read("test", 0)["audio"]) == 2
    with pytest.raises(MediaError, match="the sound of avqa clip 30000000 is silent"):
        AVQA(copy, segments=2, silent="refuse").read("test", 0)


def test_an_unknown_answer_type_or_slot_breaks_its_row_only(root, tmp_path):
    def change(entries):
        entries[0]["anser"] = "rigth"
        entries[1]["type"] = '["Audio", "Location"]'
        entries[2]["templ_values"] = '["cello", "flute", "drum"]'

    task = AVQA(edit(root, tmp_path, "test", change), segments=2)
    with pytest.raises(MediaError, match=r"question 0 of .*avqa-test.json: unknown answer 'rigth'.*'right'"):
        task.read("test", 0)
    with pytest.raises(MediaError, match=r"question 1 of .*unknown question type 'audio location'"):
        task.read("test", 1)
    with pytest.raises(MediaError, match=r"question 2 of .*templ_values holds 3 values"):
        task.read("test", 2)
    assert task.read("test", 3)["text"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: e.append(e[0]), r"entry 7 lists question 0 for the second time"),
        (lambda e: e[1].pop("anser"), r"entry 2 lacks anser; it should hold video_id, .*, anser"),
        (lambda e: e.append("x"), r"entry 7 lacks video_id"),
        (lambda e: e[2].update(question_id="q3"), r"entry 3 has the question_id 'q3', it should be a number"),
    ],
)
def test_entries_that_are_wrong_are_named(root, tmp_path, change, said):
    with pytest.raises(ValueError, match=rf"avqa-test.json {said}"):
        AVQA(edit(root, tmp_path, "test", change)).size("test")


def test_files_that_are_no_list_are_named(root, tmp_path):
    copy = edit(root, tmp_path, "test", lambda entries: None)
    (copy / "avqa-test.json").write_text("{}")
    with pytest.raises(ValueError, match="should hold a list of questions, it holds a dict"):
        AVQA(copy).size("test")
    (copy / "avqa-test.json").write_text("[")
    with pytest.raises(ValueError, match=r"avqa-test.json is not JSON"):
        AVQA(copy).size("test")

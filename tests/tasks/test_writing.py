"""Captioning tasks: rows, references in both forms, scores of what was written, words for a person."""

import json
import pickle
from types import SimpleNamespace

import pytest
import torch
from packs import flickr8k
from text_visual import msrvtt, msvd

from hmmoe.tasks.places import place
from hmmoe.tasks.writing import Flickr8kCaptions, MSRVTTCaptions, MSVDCaptions


@pytest.fixture(autouse=True)
def _scorer(monkeypatch):
    """The rows do not need the scorer."""
    monkeypatch.setattr("hmmoe.tasks.writing.find_spec", lambda name: True)


class Words:
    """A tokenizer whose word numbers stand for whole captions."""

    said = ("", "only video7 now", "a cat runs fast on grass", "grey all over the place")

    def batch_decode(self, ids, skip_special_tokens):
        return [self.said[row[0]] for row in ids]


def _with_words(task):
    task.system = SimpleNamespace(tokenizer=Words())
    return task


def test_all_captions_train_and_every_video_is_written_about_once(tmp_path):
    task = MSRVTTCaptions(msrvtt(tmp_path))
    assert [task.size(split) for split in ("train", "validation", "test")] == [12, 1, 3]
    row = task.dataset("train")[1]
    assert row["text"] == "video0 sings"
    assert row["label"] == place("train", 1)
    row = task.dataset("test")[0]
    assert row["text"] is None
    assert len(row["video"]) == 8
    assert pickle.loads(pickle.dumps(task.dataset("test")))[0]["label"] == place("test", 0)


@pytest.mark.parametrize("coco", [True, False])
def test_references_are_the_annotation_files_in_either_form(tmp_path, coco):
    entries = [{"video_id": "video7", "caption": text} for text in ("one", "two", "three")]
    content = {"annotations": entries, "images": [{"id": "video7"}]} if coco else entries
    (msrvtt(tmp_path) / "caption_annotation.json").write_text(json.dumps(content))
    test = dict(MSRVTTCaptions(tmp_path).captioned["test"])
    assert test["video7"] == ["one", "two", "three"]
    assert test["video8"] == ["video8 plays", "video8 sings"]


def test_what_is_written_is_scored_against_all_references(tmp_path, monkeypatch):
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setattr("hmmoe.tasks.captions._has_java", lambda: False)
    task = _with_words(MSVDCaptions(msvd(tmp_path)))
    task.captioned["test"] = [
        ("a", ["a cat runs fast on grass", "other"]),
        ("b", ["grey all over the place"]),
    ]
    labels = torch.tensor([place("test", 0), place("test", 1)])
    perfect = task.metrics(torch.tensor([[2], [3]]), labels)
    assert perfect["bleu4"] == pytest.approx(1, abs=1e-3)
    assert task.metrics(torch.tensor([[0], [0]]), labels)["cider"] == 0
    assert perfect["cider"] > 5


def test_results_and_samples_are_in_words(tmp_path):
    task = _with_words(MSRVTTCaptions(msrvtt(tmp_path)))
    content = json.loads(task.result("test", [0, 2], torch.tensor([[1], [0]]))["test_captions.json"])
    assert content == [
        {"video_id": "video7", "caption": "only video7 now"},
        {"video_id": "video9", "caption": ""},
    ]
    shown = task.show(task.dataset("test")[0], torch.tensor([1]))
    assert [part["stream"] for part in shown["parts"]] == ["video", "audio"]
    assert (shown["target"], shown["prediction"]) == ("video7 plays", "only video7 now")


def test_photographs_trained_on_can_be_written_about_to_see_that_captions_are_learned(tmp_path):
    task = Flickr8kCaptions(flickr8k(tmp_path), photographs=2, captions=1, test_on="train")
    assert [task.size(split) for split in ("train", "validation", "test")] == [2, 2, 2]
    assert task.captioned["test"] == task.captioned["train"]
    assert Flickr8kCaptions(tmp_path).captioned["test"][3] == ("test/3", ["first 3", "second"])
    assert task.dataset("test")[0]["image"].shape == (16, 16, 3)


def test_the_users_own_picture_needs_no_text(tmp_path):
    from PIL import Image

    Image.new("RGB", (9, 9)).save(tmp_path / "mine.png")
    row = Flickr8kCaptions(tmp_path).from_files(image=str(tmp_path / "mine.png"))
    assert row["text"] is None


def test_towers_side_by_side_cannot_write(tmp_path):
    with pytest.raises(ValueError, match=r"needs a model that writes, such as model: \{name: valor\}"):
        MSVDCaptions(tmp_path).head({"video": 4, "text": 4})


def test_a_missing_scorer_is_told_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("hmmoe.tasks.writing.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"install it with: pip install 'hmmoe\[captions\]'"):
        MSVDCaptions(msvd(tmp_path)).dataset("train")

"""Retrieval and question answering on MSRVTT and MSVD: files in both layouts, rows, scores, bad files."""

import json
import shutil

import numpy as np
import pytest
import torch
from text_visual import msrvtt, msvd
from torch.nn import functional as F

from hmmoe.data import Collator, MediaError, Prepared, decode_audio
from hmmoe.data.prepare import check, prepare, recognise
from hmmoe.data.sets.video_text import MSRVTTSet, MSVDSet, read_asked, read_captions, read_ids
from hmmoe.tasks.video_qa import MSRVTTQA, MSVDQA
from hmmoe.tasks.video_retrieval import MSRVTTRetrieval, MSVDRetrieval
from hmmoe.tasks.writing import MSVDCaptions
from official import movie, tone

PAIRS = {"video0": ["a cat", "runs"], "video1": ["rain"]}
LISTED = [{"video_id": v, "caption": c} for v, captions in PAIRS.items() for c in captions]
COCO = {
    "images": [{"id": v} for v in PAIRS],
    "annotations": [
        {"image_id": e["video_id"], "id": i, "caption": e["caption"]} for i, e in enumerate(LISTED)
    ],
}


@pytest.mark.parametrize(
    "content",
    [PAIRS, {"annotations": LISTED}, COCO, LISTED, {"info": {}, "videos": [], "sentences": LISTED}],
)
def test_captions_are_read_in_every_json_form(tmp_path, content):
    file = tmp_path / "captions.json"
    file.write_text(json.dumps(content))
    assert read_captions(file) == PAIRS


def test_captions_are_read_from_csv_and_from_lines(tmp_path):
    (tmp_path / "a.csv").write_text('key,video_id,sentence\nret0,video0,"a cat, running"\n')
    assert read_captions(tmp_path / "a.csv") == {"video0": ["a cat, running"]}
    (tmp_path / "a.txt").write_text("# from the authors\nx_1_2 a cat\nx_1_2 runs fast\n")
    assert read_captions(tmp_path / "a.txt") == {"x_1_2": ["a cat", "runs fast"]}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "{", r"a\.json is not JSON"),
        ("a.json", "3", "holds no captions: give"),
        ("a.json", '[{"video_id": "v"}]', "entry 1 .* should hold video_id and caption"),
        ("a.json", '{"v": [""]}', "caption 1 .* of video 'v', is '', not a text"),
        ("a.csv", "video_id,text\nv,x\n", "lacks the column sentence"),
        ("a.txt", "alone\n", "should hold a video and a caption in every line"),
        ("a.txt", "\xff", "is not text"),
    ],
)
def test_a_caption_file_that_cannot_be_read_says_where(tmp_path, name, text, words):
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(MediaError, match=words):
        read_captions(tmp_path / name)


def test_ids_are_read_from_json_csv_and_lines(tmp_path):
    (tmp_path / "a.json").write_text('["b", "a", "b"]')
    (tmp_path / "a.csv").write_text("video_id\nb\na\n")
    (tmp_path / "a.txt").write_text("b\na\n\n")
    assert [read_ids(tmp_path / f"a.{kind}") for kind in ("json", "csv", "txt")] == [["b", "a"]] * 3
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(MediaError, match="should be a list of video ids"):
        read_ids(tmp_path / "a.json")


def test_questions_are_read_by_video_and_by_number(tmp_path):
    file = tmp_path / "qa.json"
    file.write_text(json.dumps({"v": [{"question": "q", "answer": "a"}]}))
    assert [(a.video, a.question, a.answer) for a in read_asked(file)] == [("v", "q", "a")]
    file.write_text(json.dumps([{"video_id": 7, "question": "q", "answer": "a", "id": 1}]))
    assert read_asked(file)[0].video == "video7"
    assert read_asked(file, {7: "x_1_2"})[0].video == "x_1_2"
    with pytest.raises(MediaError, match=r"entry 1 .* asks about video 7, which has no name"):
        read_asked(file, {8: "x"})
    file.write_text(json.dumps([{"video_id": 7, "question": "q"}]))
    with pytest.raises(MediaError, match=r"entry 1 .* should hold video, question and answer"):
        read_asked(file)


def test_1ka_trains_on_all_captions_and_tests_on_one_per_video(tmp_path):
    task = MSRVTTRetrieval(msrvtt(tmp_path), frames=3)
    assert {split: task.size(split) for split in ("train", "validation", "test")} == {
        "train": 12,
        "validation": 2,
        "test": 3,
    }
    row = task.dataset("test")[0]
    assert row["text"] == "only video7"
    assert row["label"].tolist() == [0, 0]
    assert [frame.shape for frame in row["video"]] == [(8, 8, 3)] * 3
    assert [(len(wave), rate) for wave, rate in row["audio"]] == [(5 * 16000, 16000)] * 2


def test_published_work_selects_on_the_test_videos(tmp_path):
    task = MSRVTTRetrieval(msrvtt(tmp_path), select_on="test")
    assert (task.size("train"), task.size("validation"), task.size("test")) == (14, 3, 3)


def test_the_standard_protocol_asks_with_every_caption(tmp_path):
    task = MSRVTTRetrieval(msrvtt(tmp_path), protocol="standard")
    rows = [task.dataset("test")[i] for i in range(6)]
    assert [row["label"].tolist() for row in rows] == [[0, 0], [1, 1], [2, 2], [0, -1], [1, -1], [2, -1]]
    assert rows[3]["video"] is None
    assert rows[3]["text"] == "video7 sings"


def test_without_lists_the_standard_splits_are_those_of_the_numbers(tmp_path):
    msrvtt(tmp_path)
    for file in tmp_path.glob("standardsplit*"):
        file.unlink()
    names = {f"video{i}": ["x"] for i in (3, 6513, 7009, 7010, 9999)}
    (tmp_path / "txt_mapper.json").write_text(json.dumps(names))
    found = MSRVTTRetrieval.data.videos(tmp_path, "standard")
    assert found == {
        "train": ["video3"],
        "validation": ["video6513", "video7009"],
        "test": ["video7010", "video9999"],
    }


def test_a_video_without_sound_comes_as_none_and_is_marked(tmp_path):
    task = MSRVTTRetrieval(msrvtt(tmp_path))
    rows = [task.dataset("test")[i] for i in range(2)]
    assert rows[1]["audio"] is None

    class Loud:
        def preprocess(self, items):
            return {"x": torch.ones(len(items), 4)}

    batch = Collator({"audio": Loud()}, task)(rows)
    assert batch["present"]["audio"].tolist() == [True, False]
    assert batch["audio"]["x"].tolist() == [[[1.0] * 4] * 2, [[0.0] * 4] * 2]


def test_msvd_asks_with_every_caption_and_answers_with_the_best(tmp_path):
    task = MSVDRetrieval(msvd(tmp_path))
    labels = torch.tensor(np.stack([row["label"] for row in task.dataset("test")]))
    assert labels.tolist() == [[0, 0], [1, 1], [0, -1], [0, -1], [1, -1], [1, -1]]
    a, b = torch.eye(2)
    text = torch.stack([a, a, a, b, b, b])  # the second video's first caption and the first's last are wrong
    media = torch.stack([a, b, *torch.zeros(4, 2)])
    scores = task.metrics({"text": text, "media": media}, labels)
    assert scores["t2v_r1"] == pytest.approx(100 * 4 / 6)
    assert scores["v2t_r1"] == 0  # a caption of the other video is as similar, which counts against us
    assert scores["v2t_r5"] == 100
    assert {key for key in scores if key.startswith("dual_softmax_t2v")} == {
        f"dual_softmax_t2v_{k}" for k in ("r1", "r5", "r10", "median_rank", "mean_rank")
    }


def test_a_limit_of_test_rows_draws_videos_with_all_their_captions(tmp_path):
    rows = MSVDRetrieval(msvd(tmp_path), test_rows=1).dataset("test")
    assert len(rows) == 3
    assert len({row["label"][0] for row in rows}) == 1


def test_captions_of_a_video_that_cannot_be_read_do_not_ask(tmp_path):
    task = MSVDRetrieval(msvd(tmp_path))
    labels = torch.tensor([[1, 1], [0, -1], [1, -1]])
    same = torch.ones(3, 2)
    assert task.metrics({"text": same, "media": same}, labels)["t2v_r1"] == 100


def test_frames_come_from_the_video_where_there_are_no_pictures(tmp_path):
    task = MSVDRetrieval(msvd(tmp_path), frames=2)
    first, second = task.dataset("train")[3]["video"]
    assert first.shape == (32, 32, 3)
    assert abs(first.mean() - 40) < 6
    assert abs(second.mean() - 60) < 6


def test_a_video_in_two_splits_and_one_without_caption_are_named(tmp_path):
    msvd(tmp_path)
    (tmp_path / "test_list.txt").write_text("clip-0_0_5")
    with pytest.raises(MediaError, match="video 'clip-0_0_5' of MSVD is in train and in test"):
        MSVDRetrieval(tmp_path).size("test")
    (tmp_path / "test_list.txt").write_text("clip-9_0_5")
    with pytest.raises(MediaError, match="video 'clip-9_0_5' of MSVD's test split has no caption"):
        MSVDRetrieval(tmp_path).size("test")


def test_a_video_that_is_not_there_is_named(tmp_path):
    msvd(tmp_path)
    (tmp_path / "YouTubeClips" / "clip-4_0_5.avi").unlink()
    with pytest.raises(MediaError, match="video of msvd clip clip-4_0_5 does not exist"):
        MSVDRetrieval(tmp_path).dataset("test")[0]


def test_a_video_that_does_not_decode_is_named_or_skipped(tmp_path):
    (msvd(tmp_path) / "YouTubeClips" / "clip-0_0_5.avi").write_bytes(b"no video")
    task = MSVDRetrieval(tmp_path)
    with pytest.raises(MediaError, match=r"clip-0_0_5\.avi"):
        task.dataset("train")[0]
    rows = Prepared(task.dataset("train"), {}, task, skip_broken=True)
    assert (len(rows), len(rows.skipped)) == (6, 3)


def test_a_picture_of_a_video_that_does_not_decode_is_named(tmp_path):
    (msrvtt(tmp_path) / "frames_fps4" / "video7" / "img_0003.jpg").write_bytes(b"no picture")
    with pytest.raises(MediaError, match=r"video7/img_0003\.jpg"):
        MSRVTTQA(tmp_path, frames=5).dataset("test")[0]


def test_the_users_own_video_is_cut_as_those_of_the_set(tmp_path):
    movie(tmp_path / "mine.mp4", [40, 60], tone(2))
    mine = str(tmp_path / "mine.mp4")
    row = MSRVTTQA(tmp_path, frames=2).from_files(video=mine, audio=mine, text="what?")
    assert [abs(frame.mean() - level) < 6 for frame, level in zip(row["video"], (40, 60), strict=True)]
    assert [len(wave) / rate for wave, rate in row["audio"]] == [5, 5]
    assert (row["text"], row["label"]) == ("what?", None)
    frames = msrvtt(tmp_path) / "frames_fps4" / "video7"
    row = MSVDCaptions(tmp_path, frames=3).from_files(video=str(frames))
    assert [frame.shape for frame in row["video"]] == [(8, 8, 3)] * 3
    assert row["text"] is None
    (tmp_path / "empty").mkdir()
    with pytest.raises(MediaError, match="empty holds no pictures"):
        MSVDRetrieval(tmp_path).from_files(video=str(tmp_path / "empty"), text="a cat")
    with pytest.raises(ValueError, match="unknown stream of task 'msvd_qa' 'audio'"):
        MSVDQA(tmp_path).from_files(audio=mine)


def test_answers_are_compared_without_case_and_punctuation(tmp_path):
    task = MSRVTTQA(msrvtt(tmp_path))
    assert task.answers == ["a cat", "man"]
    labels = torch.tensor(np.stack([row["label"] for row in task.dataset("test")]))
    assert labels[:, 0].tolist() == [0, 1] * 3
    scores = task.metrics(F.one_hot(torch.zeros(6, dtype=torch.long), 2).float(), labels)
    assert scores == {"accuracy": 50, "answerable": 100}
    assert task.show(task.dataset("test")[0])["target"] == "a cat."


def test_a_rare_answer_is_left_out_of_training_and_counts_as_wrong(tmp_path):
    task = MSVDQA(msvd(tmp_path), answers=2)
    assert task.answers == ["cat", "dog"]
    file = tmp_path / "test_qa.json"
    asked = json.loads(file.read_text())
    asked[0]["answer"] = "zebra"
    file.write_text(json.dumps(asked))
    labels = torch.tensor(np.stack([row["label"] for row in MSVDQA(tmp_path).dataset("test")]))
    assert labels[:, 0].tolist() == [-1, 1]
    sure = F.one_hot(torch.tensor([0, 1]), 2).float()
    assert task.metrics(sure, labels) == {"accuracy": 50, "answerable": 50}


def test_msrvtt_qa_reads_the_official_files_by_number_too(tmp_path):
    msrvtt(tmp_path)
    (tmp_path / "txt_mapper_vqa.json").unlink()
    for split, number in (("train", 1), ("val", 2), ("test", 7)):
        asked = [{"video_id": number, "question": "what?", "answer": "cat", "id": 0, "category_id": 3}]
        (tmp_path / "MSRVTT-QA").mkdir(exist_ok=True)
        (tmp_path / "MSRVTT-QA" / f"{split}_qa.json").write_text(json.dumps(asked))
    task = MSRVTTQA(tmp_path)
    assert [task.everything[s][0].video for s in ("train", "validation", "test")] == [
        "video1",
        "video2",
        "video7",
    ]


def test_videos_of_any_length_are_prepared_and_read_the_same(tmp_path):
    raw = msvd(tmp_path / "raw")
    report = prepare(MSVDSet(), raw, tmp_path / "out")
    assert report.share == 1
    assert report.rows == {
        "train": (9, 9, 48_774),
        "validation": (3, 3, 4_290),
        "test": (6, 6, 27_763),
    }
    assert len(list((tmp_path / "out" / "frames_fps4" / "clip-1_0_5").iterdir())) == 8  # two seconds
    assert recognise(tmp_path / "out").name == "msvd"
    assert check(MSVDSet(), tmp_path / "out").share == 1
    before, after = (MSVDRetrieval(f, frames=2).dataset("test")[1]["video"] for f in (raw, tmp_path / "out"))
    assert all(np.abs(a.astype(int) - b).mean() < 4 for a, b in zip(before, after, strict=True))


def test_sound_is_prepared_as_long_as_it_is(tmp_path):
    raw = msrvtt(tmp_path / "raw")
    shutil.rmtree(raw / "frames_fps4")
    shutil.rmtree(raw / "audio_22050hz")
    for i in range(10):
        movie(raw / "raw_videos" / f"video{i}.mp4", [90, 90], None if i == 8 else tone(2))
    report = prepare(MSRVTTSet(), raw, tmp_path / "out")
    assert report.names("without sound") == ["video8"]
    assert report.share == 1
    wave, rate = decode_audio(tmp_path / "out" / "audio" / "video7.wav")
    assert abs(len(wave) / rate - 2) < 0.2
    task = MSRVTTRetrieval(tmp_path / "out")
    assert task.dataset("test")[0]["audio"][0][1] == rate
    assert task.dataset("test")[1]["audio"] is None

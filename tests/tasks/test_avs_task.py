"""AVSBench's layouts: rows, masks, annotated frames, pictures for people, and what is wrong with a folder."""

import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from generated import COUNTS, SIDE, avs_ms3, avs_s4, generate
from hmmoe.data.media import MediaError, wav
from hmmoe.data.prepare import check, data_set, prepare, recognise
from hmmoe.tasks.avs import MS3, S4
from official import movie, tone


@pytest.fixture(scope="module")
def s4(tmp_path_factory):
    return avs_s4(tmp_path_factory.mktemp("s4"))


@pytest.fixture(scope="module")
def ms3(tmp_path_factory):
    return avs_ms3(tmp_path_factory.mktemp("ms3"))


def changed(folder, to):
    """A copy to damage."""
    return shutil.copytree(folder, to / "copy")


def test_rows_are_five_frames_five_seconds_of_sound_and_their_masks(s4, ms3):
    for task in (S4(s4, size=SIDE), MS3(ms3, size=SIDE)):
        assert [task.size(s) for s in ("train", "validation", "test")] == list(COUNTS)
        for split in ("train", "validation", "test"):
            for row in task.dataset(split):
                assert row["video"].shape == (5, SIDE, SIDE, 3)
                assert [len(wave) for wave, rate in row["audio"] if rate == 16000] == [16000] * 5
                assert row["label"].shape == (5, SIDE, SIDE)
                first_only = task.name == "avs_s4" and split == "train"
                assert (row["label"][1:] == -1).all() == first_only
                assert set(np.unique(row["label"])) <= ({-1, 0, 1} if first_only else {0, 1})


def test_the_mask_is_the_sounding_shape(s4):
    # The generator hums low for the disc; the square has corners, so it fills more of its bounding box.
    for row in S4(s4, size=SIDE).dataset("test"):
        wave = row["audio"][0][0]
        pitch = np.abs(np.fft.rfft(wave))[: SIDE * 100].argmax()
        ys, xs = np.nonzero(row["label"][0])
        filled = len(ys) / ((np.ptp(ys) + 1) * (np.ptp(xs) + 1))
        assert (pitch < 350) == (filled < 0.9)


def test_masks_are_scored_at_the_size_asked_for(s4):
    row = S4(s4, size=16).dataset("test")[0]
    assert row["label"].shape == (5, 16, 16)
    assert set(np.unique(row["label"])) == {0, 1}


def test_the_archive_and_its_single_folder_are_both_read(s4, tmp_path):
    shutil.copytree(s4, tmp_path / "Single-source")
    assert np.array_equal(S4(tmp_path).read("test", 1)["label"], S4(s4).read("test", 1)["label"])


def test_scores_count_annotated_frames_only(s4):
    task = S4(s4, size=SIDE)
    labels = torch.as_tensor(np.stack([row["label"] for row in task.dataset("train")]))
    sure = {"masks": torch.where(labels == 1, 9.0, -9.0)}
    sure["masks"][:, 1:] = 9.0  # wrong where nobody knows
    assert task.metrics(sure, labels) == {"mj": pytest.approx(100), "mf": pytest.approx(100)}


def test_the_matching_loss_is_for_several_sources(s4, ms3):
    for task, weight in ((S4(s4), 0), (MS3(ms3), 0.5)):
        assert task.head({"video": 4, "audio": 4, "video/0": 4}).matching == weight


def test_predictions_are_the_pictures_that_avsbench_saves(s4, ms3):
    for task in (S4(s4, size=SIDE), MS3(ms3, size=SIDE)):
        label = task.read("test", 1)["label"]
        logits = {"masks": torch.as_tensor(label)[None] * 2.0 - 1}
        row = task.rows["test"][1]
        files = task.result("test", [1], logits)
        folder = f"{row.category}/{row.name}" if row.category else row.name
        assert list(files) == [f"{folder}/{row.name}_{i}.png" for i in range(5)]
        picture = np.asarray(Image.open(io.BytesIO(files[f"{folder}/{row.name}_3.png"])))
        assert np.array_equal(picture, 255 * label[3].astype(np.uint8))


def test_the_report_shows_frames_true_and_predicted_masks(s4):
    task = S4(s4, size=SIDE)
    row = task.dataset("test")[0]
    logits = {"masks": torch.as_tensor(row["label"]) * 2.0 - 1, "matching": torch.zeros(())}
    shown = task.show(row, logits)
    picture = np.asarray(Image.open(io.BytesIO(shown["parts"][0]["data"])))
    assert picture.shape == (3 * SIDE, 5 * SIDE, 3)
    assert np.array_equal(picture[SIDE : 2 * SIDE], picture[2 * SIDE :])  # a perfect answer
    assert not np.array_equal(picture[:SIDE], picture[SIDE : 2 * SIDE])
    assert shown["prediction"].endswith("MJ 100.0, MF 100.0")
    assert task.show(row)["prediction"] is None


def test_raw_videos_are_prepared_at_the_size_of_the_masks_and_checked(tmp_path):
    raw = generate.avs(tmp_path / "raw", several=False, counts=(1, 1, 0), side=224)
    shutil.rmtree(raw / "s4_data" / "visual_frames")
    row = S4(raw).rows["train"][0]
    folder = raw / "s4_data" / "raw_videos" / "train" / row.category
    movie(folder / f"{row.name}.mp4", [20, 60, 100, 140, 180], tone(5))
    report = prepare(data_set("avs_s4"), raw, tmp_path / "out")
    assert report.names("missing") == ["clipval00000"]
    assert report.rows == {"train": (1, 1, 3452), "validation": (0, 1, 740), "test": (0, 0, 740)}
    read = S4(tmp_path / "out", size=SIDE).read("train", 0)
    assert read["video"].shape == (5, 224, 224, 3)
    assert [round(frame.mean(), -1) for frame in read["video"]] == [20, 60, 100, 140, 180]
    assert read["label"][0].any()
    assert check(data_set("avs_s4"), tmp_path / "out").names("whole") == report.names("whole")
    next((raw / "s4_data" / "gt_masks" / "train").rglob("*.png")).unlink()
    again = prepare(data_set("avs_s4"), raw, tmp_path / "again").outcomes["cliptrain00000"]
    assert again.status == "broken"
    assert again.why.startswith("mask ")
    assert again.why.endswith("_1.png does not exist")


def test_both_parts_of_avsbench_are_prepared_together(tmp_path):
    raw = tmp_path / "raw"
    generate.avs(raw / "Single-source", several=False, counts=(1, 0, 0), side=224)
    generate.avs(raw / "Multi-sources", several=True, counts=(1, 0, 0), side=224)
    shutil.rmtree(raw / "Single-source" / "s4_data" / "visual_frames")
    shutil.rmtree(raw / "Multi-sources" / "ms3_data" / "visual_frames")
    row = S4(raw).rows["train"][0]
    videos = raw / "Single-source" / "s4_data" / "raw_videos" / "train" / row.category
    movie(videos / f"{row.name}.mp4", [20, 60, 100, 140, 180], tone(5))
    movie(raw / "Multi-sources" / "ms3_data" / "raw_videos" / "cliptrain00000.mp4", [50] * 5, tone(5))
    out = tmp_path / "out"
    report = prepare(data_set("avs"), raw, out)
    assert report.names("whole") == ["S4 cliptrain00000", "MS3 cliptrain00000"]
    assert report.rows["S4 train"] == (1, 1, 3452)
    assert report.rows["MS3 train"] == (1, 1, 296)
    assert S4(out).read("train", 0)["video"].shape == MS3(out).read("train", 0)["video"].shape
    assert check(recognise(out), out).names("whole") == report.names("whole")
    mask = next((out / "Multi-sources" / "ms3_data" / "gt_masks").rglob("*_3.png"))
    mask.write_bytes(mask.read_bytes()[:40])
    found = check(recognise(out), out)
    assert found.names("broken") == ["MS3 cliptrain00000"]
    assert f"{mask.name} cannot be decoded" in found.outcomes["MS3 cliptrain00000"].why
    with pytest.raises(FileNotFoundError, match=r"s4_meta_data.csv"):
        prepare(data_set("avs"), tmp_path, out)


def test_missing_files_are_named(s4, ms3, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"s4_meta_data.csv, the list of AVSBench S4's clips, does not"
    ):
        S4(ms3).dataset("test")
    with pytest.raises(FileNotFoundError, match=r"ms3_meta_data.csv"):
        MS3(s4).dataset("test")
    root = changed(s4, tmp_path)
    mask = next((root / "s4_data" / "gt_masks" / "test").rglob("cliptest00000_4.png"))
    mask.unlink()
    with pytest.raises(MediaError, match=r"mask .*cliptest00000_4.png does not exist"):
        S4(root).read("test", 0)
    mask.write_bytes(b"no picture")
    with pytest.raises(MediaError, match=r"mask .*cliptest00000_4.png cannot be decoded"):
        S4(root).read("test", 0)
    next((root / "s4_data" / "visual_frames" / "test").rglob("cliptest00000_2.png")).unlink()
    with pytest.raises(MediaError, match=r"cliptest00000 holds 4 pictures, it should be 5"):
        S4(root).read("test", 0)
    shutil.rmtree(root / "s4_data" / "visual_frames")
    with pytest.raises(
        MediaError, match=r"the video of avs_s4 clip cliptest00000 does not exist: no s4_data"
    ):
        S4(root).read("test", 0)
    shutil.rmtree(root / "s4_data" / "gt_masks")
    with pytest.raises(
        FileNotFoundError, match=r"the masks of AVSBench S4 do not exist: no s4_data/gt_masks"
    ):
        S4(root).data.annotations(root)


def test_masks_of_another_size_are_named(ms3, tmp_path):
    root = changed(ms3, tmp_path)
    folder = root / "ms3_data" / "gt_masks" / "test" / "cliptest00000"
    Image.new("P", (SIDE // 2, SIDE)).save(folder / "cliptest00000_3.png")
    with pytest.raises(
        MediaError, match="the masks of AVSBench MS3 clip cliptest00000 are of different sizes"
    ):
        MS3(root).read("test", 0)
    for second in range(5):
        Image.new("P", (SIDE // 2, SIDE)).save(folder / f"cliptest00000_{second + 1}.png")
    with pytest.raises(MediaError, match=rf"are {SIDE} x {SIDE // 2}, its frames {SIDE} x {SIDE}"):
        MS3(root).read("test", 0)


def test_silence_is_kept_or_refused_as_the_recipe_says(s4, tmp_path):
    root = changed(s4, tmp_path)
    file = next((root / "s4_data" / "audio_wav" / "test").rglob("cliptest00001.wav"))
    file.write_bytes(wav(np.zeros(5 * 16000, np.float32), 16000))
    assert len(S4(root).read("test", 1)["audio"]) == 5
    with pytest.raises(MediaError, match="the sound of avs_s4 clip cliptest00001 is silent"):
        S4(root, silent="refuse").read("test", 1)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("clipx,0,dog_barkin,test", r"line 9: unknown category 'dog_barkin', did you mean 'dog_barking'"),
        ("clipx,0,dog_barking,tets", r"line 9: unknown split 'tets', did you mean 'test'"),
        ("cliptrain00001,0,dog_barking,test", r"line 9 lists cliptrain00001 for the second time"),
        ("clipx,0,dog_barking", r"line 9 does not have a field for each column"),
        ("clipx,0,dog_barking,test,1", r"line 9 does not have a field for each column"),
    ],
)
def test_rows_that_are_wrong_are_named(s4, tmp_path, line, said):
    root = changed(s4, tmp_path)
    with (root / "s4_meta_data.csv").open("a") as table:
        table.write(line + "\n")
    with pytest.raises(ValueError, match=said):
        S4(root).size("test")


def test_a_table_without_splits_is_named_and_order_does_not_matter(s4, tmp_path):
    root = changed(s4, tmp_path)
    table = root / "s4_meta_data.csv"
    head, *lines = table.read_text().splitlines()
    table.write_text("\n".join([head, *reversed(lines)]) + "\n")
    assert [row.name for row in S4(root).rows["train"]] == [f"cliptrain0000{i}" for i in (2, 1, 0)]
    table.write_text("name,start,category\n")
    with pytest.raises(ValueError, match="lacks the column split"):
        S4(root).size("test")


def test_a_users_files_are_read(s4, tmp_path):
    video = movie(tmp_path / "v.mp4", [50] * 5, tone(5))
    row = S4(s4).from_files(video=str(video))
    assert row["video"].shape == (5, SIDE, SIDE, 3)
    assert row["label"] is None

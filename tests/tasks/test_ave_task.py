"""AVE in its layouts: what rows hold, both settings and heads, and what a wrong file says."""

import shutil

import h5py
import numpy as np
import pytest
import torch

from hmmoe.data import Collator, MediaError, decode_image
from hmmoe.data.prepare import prepare
from hmmoe.data.sets import SETS
from hmmoe.tasks.ave import AVE, HEADER, rebuild_labels
from official import AVE_ROWS, AVE_SPLITS, ave_annotations, ave_raw, movie, tone

LABELS = [[2, 2, 1, 1, 1, 2, 2, 2, 2, 2], [1] * 4 + [3] * 6]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return ave_raw(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared")
    prepare(SETS["ave"], raw, out)
    return out


@pytest.fixture
def lavish(prepared, tmp_path):
    """As LAVISH keeps it: no header, splits and labels in HDF5."""
    shutil.copytree(prepared / "video_frames", tmp_path / "video_frames")
    shutil.copytree(prepared / "raw_audio", tmp_path / "raw_audio")
    data = tmp_path / "data"
    data.mkdir()
    (data / "Annotations.txt").write_text((prepared / "Annotations.txt").read_text().split("\n", 1)[1])
    for name, numbers in zip(("train", "val", "test"), AVE_SPLITS.values(), strict=True):
        with h5py.File(data / f"{name}_order.h5", "w") as file:
            file["order"] = np.array(numbers)
    return tmp_path


@pytest.fixture
def dg_sct(lavish):
    """As DG-SCT and AVMoE keep it: all below data/AVE, pictures of any rate, waveforms of 32 kHz."""
    home = lavish / "data" / "AVE"
    (home / "wave").mkdir(parents=True)
    for wave in (lavish / "raw_audio").iterdir():
        np.save(home / "wave" / f"{wave.stem}.npy", np.repeat(_wave(wave), 2))
    for folder in (lavish / "video_frames").iterdir():
        (home / "frames" / folder.name).mkdir(parents=True)
        for number in range(1, 81):  # eight a second
            picture = folder / f"{(number + 7) // 8:04d}.jpg"
            shutil.copy(picture, home / "frames" / folder.name / f"{number:08d}.jpg")
    shutil.rmtree(lavish / "raw_audio")
    shutil.rmtree(lavish / "video_frames")
    return lavish


def _wave(path):
    import soundfile

    return soundfile.read(path, dtype="float32")[0]


def _bright(row):
    return row["video"].mean((1, 2, 3)) > 120


def _loud(row):
    return np.array([np.abs(wave).max() > 0.1 for wave, _ in row["audio"]])


@pytest.mark.parametrize("layout", ["raw", "prepared", "lavish", "dg_sct"])
def test_rows_are_the_same_in_every_layout(layout, request):
    task = AVE(request.getfixturevalue(layout))
    assert [task.size(split) for split in ("train", "validation", "test")] == [3, 1, 2]
    row = task.dataset("train")[1]
    assert row["label"].tolist() == [3, 3, 1, 1, 1, 3, 3, 3, 3, 3]
    assert _bright(row).tolist() == _loud(row).tolist() == [False] * 2 + [True] * 3 + [False] * 5
    assert len(row["audio"][0][0]) == row["audio"][0][1] == (32000 if layout == "dg_sct" else 16000)
    test = [task.dataset("test")[i]["label"].tolist() for i in range(2)]
    assert test == [[3] * 5 + [2] * 4 + [3], [3] * 3 + [2] * 3 + [3] * 4]


def test_labels_come_from_the_stored_table_where_there_is_one(lavish):
    rebuilt, classes = rebuild_labels(AVE(lavish).annotations[0])
    stored = np.eye(len(classes) + 1)[rebuilt.numpy()]
    stored[0, 3] = np.eye(4)[3]  # so that it can be told from the rebuilt one
    with h5py.File(lavish / "data" / "labels.h5", "w") as file:
        file["avadataset"] = stored
    assert AVE(lavish).dataset("train")[0]["label"].tolist() == [0, 0, 0, 3] + [0] * 6
    with h5py.File(lavish / "data" / "labels.h5", "w") as file:
        file["avadataset"] = stored[:2]
    with pytest.raises(ValueError, match=r"labels.h5 has the shape \(2, 10, 4\), .* makes it \(6, 10, 4\)"):
        AVE(lavish).dataset("train")[0]


def test_weakly_supervised_training_rows_tell_the_event_and_not_when(prepared):
    task = AVE(prepared, supervision="weak")
    assert task.dataset("train")[1]["label"].tolist() == [1] * 10
    assert task.dataset("validation")[0]["label"].tolist() == [3] * 6 + [0] * 4


@pytest.mark.parametrize("supervision", ["full", "weak"])
@pytest.mark.parametrize("head", ["linear", "mlp", "event"])
def test_every_head_learns_what_its_setting_teaches(prepared, supervision, head):
    """Streams that show the event in some seconds: the label, or weakly the event, is learned."""
    torch.manual_seed(0)
    task = AVE(prepared, supervision=supervision, head=head)
    labels = torch.randint(4, (64, 1)).expand(64, 10).clone()
    labels[torch.rand(64, 10) < 0.4] = 3
    told = labels if supervision == "full" else labels.amin(1, keepdim=True).expand(64, 10)
    states = {m: torch.nn.functional.one_hot(labels, 8)[:, :, None].float() for m in ("video", "audio")}
    model = task.head({"video": 8, "audio": 8})
    masks = dict.fromkeys(states)
    optimiser = torch.optim.Adam(model.parameters(), 2e-2)
    for _ in range(80):
        optimiser.zero_grad()
        model.loss(model(states, masks), told).backward()
        optimiser.step()
    logits = model(states, masks)
    predicted = task.predicted(logits)
    if supervision == "full":
        assert task.metrics(logits, labels)["accuracy"] > 99
    else:
        event = labels.amin(1, keepdim=True)
        known = (labels == event) & (event < 3)
        assert (predicted == labels)[known].float().mean() > 0.9


def test_the_event_head_needs_no_event_in_a_video_and_no_second_stream(prepared):
    head = AVE(prepared, head="event").head({"video": 4, "audio": 4})
    states = {"video": torch.randn(2, 10, 5, 4)}
    logits = head(states, {"video": None})
    loss = head.loss(logits, torch.full((2, 10), 3))
    assert loss.isfinite()
    # Background alone teaches relevance only.
    torch.testing.assert_close(loss, torch.nn.functional.softplus(logits["relevance"]).mean())


def test_predictions_are_written_as_annotations(prepared):
    task = AVE(prepared)
    labels = torch.tensor([LABELS[0], [3] * 10])
    files = task.result("test", [1, 0], torch.nn.functional.one_hot(labels, 4).float())
    assert files == {
        "testSet.txt": "\n".join(
            [
                HEADER,
                "Truck&truck000001&predicted&0&2",
                "Bark&truck000001&predicted&2&5",
                "Truck&truck000001&predicted&5&10",
            ]
        )
        + "\n"
    }


def test_a_row_is_shown_in_words(prepared):
    task = AVE(prepared, head="event")
    row = task.dataset("train")[1]
    logits = {"relevance": torch.tensor([1.0] * 6 + [-1.0] * 4), "event": torch.eye(3)[2]}
    shown = task.show(row, logits)
    assert shown["target"] == "0-1 background, 2-4 Bark, 5-9 background"
    assert shown["prediction"] == "0-5 Truck, 6-9 background"


def test_rows_go_through_the_collator(prepared):
    class Tower:
        def preprocess(self, items):
            return {"x": torch.tensor([float(len(i[0]) if isinstance(i, tuple) else len(i)) for i in items])}

    rows = AVE(prepared).dataset("train")
    batch = Collator({"video": Tower(), "audio": Tower()}, AVE)([rows[0], rows[1]])
    assert batch["audio"]["x"].tolist() == [[16000.0] * 10] * 2
    assert batch["labels"].shape == (2, 10)


@pytest.fixture
def broken(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_a_clip_that_is_gone_cut_short_or_mute_is_named_where_it_is_read(broken):
    rows = AVE(broken).dataset("train")
    picture = broken / "video_frames" / "bell0000001" / "0003.jpg"
    picture.write_bytes(picture.read_bytes()[:90])
    with pytest.raises(MediaError, match=r"0003\.jpg cannot be decoded"):
        rows[0]
    (broken / "raw_audio" / "dog_0000001.wav").unlink()
    with pytest.raises(MediaError, match="sound of ave clip dog_0000001 does not exist: no raw_audio/"):
        rows[1]
    shutil.rmtree(broken / "video_frames" / "dog_0000002")
    with pytest.raises(MediaError, match="video of ave clip dog_0000002 does not exist: no video_fr"):
        rows[2]


def test_videos_that_are_truncated_or_without_sound_are_named(tmp_path):
    raw = ave_raw(tmp_path)
    movie(raw / "AVE" / "bell0000001.mp4", [50] * 10)
    cut = raw / "AVE" / "dog_0000001.mp4"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    rows = AVE(raw).dataset("train")
    with pytest.raises(MediaError, match=r"video .*bell0000001\.mp4 has no sound"):
        rows[0]
    with pytest.raises(MediaError, match=r"video .*dog_0000001\.mp4 cannot be decoded"):
        rows[1]


def test_a_video_that_ends_before_its_event_is_named(tmp_path):
    raw = ave_raw(tmp_path)
    movie(raw / "AVE" / "bell0000001.mp4", [50] * 7, tone(7))
    with pytest.raises(
        MediaError,
        match=r"bell0000001\.mp4 contradicts its annotation: it ends at 7.0 s, annotations go on to 10",
    ):
        AVE(raw).dataset("train")[0]
    movie(raw / "AVE" / "dog_0000001.mp4", [50] * 7, tone(7))  # annotated to the fifth second only
    assert AVE(raw).dataset("train")[1]["video"].shape[0] == 10


def test_silence_is_kept_or_refused_as_the_recipe_says(tmp_path):
    raw = ave_annotations(tmp_path, AVE_ROWS[:1], {"trainSet.txt": [0], "valSet.txt": [], "testSet.txt": []})
    movie(raw / "AVE" / "bell0000001.mp4", [50] * 10, 0 * tone(10))
    assert not any(wave.any() for wave, _ in AVE(raw).dataset("train")[0]["audio"])
    with pytest.raises(MediaError, match="sound of ave clip bell0000001 is silent"):
        AVE(raw, silent="refuse").dataset("train")[0]


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (
            "Annotations.txt",
            "Bark&dog_0000001",
            "Brak&dog_0000001",
            "unknown category 'Brak', did you mean",
        ),
        (
            "Annotations.txt",
            "good&2&5",
            "good&2&15",
            "line 3 sets the event to 2..15",
        ),
        (
            "valSet.txt",
            "good&6&10",
            "good&6&9",
            r"valSet\.txt row 1 .*bell0000002\) is not in Ann",
        ),
        (
            "testSet.txt",
            "Truck&truck000001&good&3&6",
            "Bark&dog_0000001&good&2&5",
            r"row 1 of Annotations\.txt \(dog_0000001\) is in the splits train and test",
        ),
    ],
)
def test_annotations_that_contradict_each_other_are_named(broken, file, old, new, said):
    path = broken / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=said):
        AVE(broken).dataset("test")


def test_the_order_of_rows_does_not_matter_and_a_row_listed_twice_counts_twice(broken):
    path = broken / "trainSet.txt"
    lines = path.read_text().split()
    whole = path.read_text().splitlines()
    path.write_text("\n".join([whole[2], whole[0], whole[2]]))
    rows = AVE(broken).dataset("train")
    assert [rows[i]["label"][0] for i in range(3)] == [1, 0, 1]
    assert len(lines) >= 3


def test_an_order_beyond_the_annotations_is_named(lavish):
    with h5py.File(lavish / "data" / "val_order.h5", "w") as file:
        file["order"] = np.array([6])
    with pytest.raises(ValueError, match=r"val_order\.h5 names row 6, but Annotations\.txt has 6 rows"):
        AVE(lavish).dataset("test")
    (lavish / "data" / "val_order.h5").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"val_order\.h5 has no readable data set 'order'"):
        AVE(lavish).dataset("test")


def test_pictures_of_different_sizes_are_named(broken):
    from PIL import Image

    folder = broken / "video_frames" / "bell0000001"
    Image.fromarray(decode_image(folder / "0001.jpg")[:16]).save(folder / "0001.jpg")
    with pytest.raises(MediaError, match=r"pictures in .*bell0000001 are of different sizes"):
        AVE(broken).dataset("train")[0]

"""Event localisation by segments: rendering, counting, words, and equality with the pack's own loader."""

import numpy as np
import pytest
import torch
from packs import ave_mini, picture, reference, sound

from hmmoe.data import Collator, MediaError
from hmmoe.data.media import png, wav
from hmmoe.tasks.ave_segments import AVEMini


@pytest.fixture
def task(tmp_path):
    return AVEMini(ave_mini(tmp_path))


def test_sound_is_where_the_composition_puts_it(task):
    row = task.dataset("train")[0]
    levels = np.array([np.sqrt((wave**2).mean()) for wave, _ in row["audio"]])
    np.testing.assert_allclose(levels[[2, 3, 4]], 0.06, rtol=0.01)
    assert levels[[0, 1, 5, 9]].max() < 1e-3
    assert row["video"].shape == (10, 64, 64, 3)
    assert (row["video"] == 77).all()


def test_accuracy_counts_every_segment(task):
    labels = torch.tensor(
        [row["label"].tolist() for row in task.dataset("test")]
    )  # (2, 10), three events each
    background = torch.zeros(2, 10, 3)
    background[..., 2] = 1
    assert task.metrics(background, labels) == {"accuracy": pytest.approx(70.0)}


def test_a_prediction_is_said_in_runs_of_seconds(task):
    row = task.dataset("test")[0]
    assert task.show(row)["target"] == "0-1 background, 2-4 dog, 5-9 background"


def test_collation_folds_frames_and_seconds(task):
    class Tower:
        def preprocess(self, items):
            arrays = [np.asarray(i[0] if isinstance(i, tuple) else i) for i in items]
            return {"x": torch.from_numpy(np.stack(arrays))}

    rows = [task.dataset("train")[i] for i in range(2)]
    batch = Collator({"video": Tower(), "audio": Tower()}, task)(rows)
    assert batch["video"]["x"].shape == (2, 10, 64, 64, 3)
    assert batch["audio"]["x"].shape == (2, 10, 16000)
    assert batch["labels"].shape == (2, 10)


def test_the_users_own_pictures_and_sound_become_a_row(task, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.png").write_bytes(png(picture(20 + i, 10 * i)))
    (tmp_path / "s.wav").write_bytes(wav(sound(2.5, 8000), 8000))
    row = task.from_files(video=str(folder), audio=str(tmp_path / "s.wav"))
    assert row["video"].shape == (10, 20, 20, 3)
    assert row["video"][:, 0, 0, 0].tolist() == [0, 10] + [20] * 8
    assert [len(wave) for wave, _ in row["audio"]] == [8000] * 10
    assert np.abs(row["audio"][2][0][:4000]).max() > 0
    assert not row["audio"][3][0].any()
    shown = task.show(row, torch.zeros(10, 3))
    assert shown["target"] is None
    assert shown["prediction"] == "0-9 dog"


def test_a_folder_without_pictures_is_named(task, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(MediaError, match="none holds no pictures"):
        task.from_files(video=str(tmp_path / "none"))


def test_rows_equal_those_of_the_packs_own_loader(shared):
    root = shared / "packs" / "ave_mini"
    theirs, ours = reference(root, "AVEMini", "test"), AVEMini(root)
    assert [ours.size(s) for s in ("train", "validation", "test")] == [2015, 299, 598]
    rows = ours.dataset("test")
    for i in (0, 100, 597):
        want, got = theirs[i], rows[i]
        np.testing.assert_allclose(np.concatenate([w for w, _ in got["audio"]]), want["audio"], atol=1e-6)
        assert (got["video"] == want["frames"]).all()
        assert (got["label"] == want["labels"]).all()

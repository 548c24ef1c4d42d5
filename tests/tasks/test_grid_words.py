"""Words of a command: which pictures and sound they are, noise, and the head that reads them in order."""

import numpy as np
import pytest
import torch

from generated import COMMANDS, grid_s1_av
from hmmoe.tasks.grid_words import PLACES, GridWords, WordHead

RATE = 16000


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return grid_s1_av(tmp_path_factory.mktemp("grid"))


def test_every_word_of_a_command_is_a_row(root):
    task = GridWords(root)
    told = [task.words[row["label"]] for row in task.dataset("train")]
    assert told == [(place, word) for c in COMMANDS for place, word in zip(PLACES, c, strict=True)]
    digits = GridWords(root, words="digit")
    assert [digits.words[row["label"]][1] for row in digits.dataset("test")] == ["2", "7"]
    assert digits.words == task.words


def test_pictures_and_sound_are_those_around_the_word(root):
    task = GridWords(root)
    rows = [task.read("train", i) for i in range(6)]
    # Words 1 and 3 are around 0.75 s and 1.375 s; the picture brightens at 1 s, the tone ends there.
    assert rows[1]["video"][:4].mean() < 80
    assert rows[3]["video"].mean() > 100
    heard = [np.abs(wave).max() for wave, _ in (row["audio"] for row in rows)]
    assert min(heard[:2]) > 0.1
    assert max(heard[3:]) < 0.1
    for row in rows:
        assert row["video"].shape == (9, 32, 32, 3)
        assert row["audio"][0].shape == (8000,)
        assert row["audio"][1] == RATE


def test_noise_has_the_level_asked_for_and_is_the_same_each_time(root):
    clean, noisy = GridWords(root).read("train", 1), GridWords(root, snr_db=-10.0).read("train", 1)
    added = noisy["audio"][0] - clean["audio"][0]
    _, wave = GridWords(root).clip("train", 0)
    voice = wave[: round(2.4 * RATE)]
    assert 20 * np.log10(added.std() / np.sqrt((voice**2).mean())) == pytest.approx(10, abs=0.5)
    again = GridWords(root, snr_db=-10.0).read("train", 1)
    assert np.array_equal(noisy["audio"][0], again["audio"][0])
    assert np.array_equal(noisy["video"], clean["video"])


def test_scores_are_by_place(root):
    task = GridWords(root)
    labels = torch.tensor([row["label"] for row in task.dataset("test")])
    logits = torch.nn.functional.one_hot(labels, len(task.words)).float()
    logits[4] = logits[0]  # a digit taken for a command
    scores = task.metrics(logits, labels)
    assert scores["accuracy"] == pytest.approx(100 * 11 / 12)
    assert scores["digit"] == 50
    assert scores["letter"] == 100


def test_the_head_reads_pictures_and_sound_in_order_and_bears_missing_streams():
    head = WordHead({"video": 4, "audio": 6}, 3)
    given = {"video": torch.randn(2, 9, 5, 4), "audio": torch.randn(2, 25, 6)}
    for m, x in given.items():
        assert not torch.allclose(head(given, {}), head(given | {m: x.flip(1)}, {}))
        rest = {n: y for n, y in given.items() if n != m}
        there = torch.tensor([True, False])
        mask = there[:, None].expand(2, 25) if m == "audio" else there[:, None, None].expand(2, 9, 5)
        found = head(given, {m: mask})
        torch.testing.assert_close(found[1], head(rest, {})[1])
        torch.testing.assert_close(found[0], head(given, {})[0])


def test_rows_of_the_pack_equal_those_of_its_own_loader(shared):
    from packs import reference

    folder = shared / "packs" / "grid_s1_av"
    theirs = reference(folder, "GridAV", "validation")[3]
    frames, wave = GridWords(folder).clip("validation", 3)
    assert np.array_equal(frames, theirs["frames"])
    length = min(len(wave), len(theirs["audio"]))
    assert abs(len(wave) - len(theirs["audio"])) < RATE / 10
    np.testing.assert_allclose(wave[-length // 2 :], theirs["audio"][-length // 2 :], atol=1e-3)

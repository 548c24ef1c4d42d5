"""Noise: as loud as asked, the same for everyone, and nothing else changed."""

import numpy as np
import pytest

from hmmoe.data.noise import Noisy, noisy, noisy_text

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(90, 166, (40, 40, 3), dtype=np.uint8)
WAVE = np.sin(np.arange(16000) / 9).astype(np.float32)


class Items:
    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return {"index": 7 + i, "label": i, **self.items[i]}


def decibels(signal, heard):
    return 20 * np.log10(np.std(signal.astype(float)) / np.std(heard.astype(float) - signal))


@pytest.mark.parametrize(("level", "expected"), [(0.5, 6.02), (1.0, 0.0), (2.0, -6.02)])
def test_a_level_is_noise_to_signal(level, expected):
    heard, rate = noisy((WAVE, 16000), level, np.random.default_rng(1))
    assert decibels(WAVE, heard) == pytest.approx(expected, abs=0.2)
    assert (heard.dtype, rate) == (np.float32, 16000)
    seen = noisy(PICTURE, level, np.random.default_rng(1))
    assert decibels(PICTURE, seen) == pytest.approx(expected, abs=0.4)  # some of it is clipped
    assert seen.dtype == np.uint8


def test_words_are_replaced_by_the_share_that_the_level_says():
    text, other = " ".join(["own"] * 3000), "x y z"
    words = noisy_text(text, other, 2.0, np.random.default_rng(0)).split()
    assert len(words) == 3000
    assert words.count("own") / 3000 == pytest.approx(1 / 3, abs=0.03)
    assert set(words) == {"own", "x", "y", "z"}
    assert noisy_text("what is it", "", 2.0, np.random.default_rng(0)) == "what is it"


def test_rows_keep_all_else_and_get_the_same_noise_each_time():
    clean = Items(
        {"image": PICTURE, "sound": [(WAVE, 8), (WAVE, 8)], "text": "a b"}, {"image": None, "text": "c"}
    )
    rows = Noisy(clean, {"image": 1.0, "sound": 1.0})
    first, again = rows[0], rows[0]
    assert (first["index"], first["label"], first["text"]) == (7, 0, "a b")
    assert np.array_equal(first["image"], again["image"])
    assert not np.array_equal(first["image"], PICTURE)
    (one, _), (two, _) = first["sound"]
    assert not np.array_equal(one, two)
    assert rows[1]["image"] is None
    louder = Noisy(clean, {"sound": 2.0})[0]["sound"][0][0]
    np.testing.assert_allclose(louder - WAVE, 2 * (one - WAVE), atol=1e-5)
    assert set(Noisy(clean, {"text": 9.0})[0]["text"].split()) <= {"a", "b", "c"}


def test_other_items_are_refused():
    with pytest.raises(TypeError, match="not to dict"):
        noisy({}, 1.0, np.random.default_rng(0))

"""av_digits: the mix of voice and noise, and equality with the pack's own loader."""

import numpy as np
import pytest
from packs import av_digits, reference

from hmmoe.data import MediaError
from hmmoe.tasks.av_digits import AVDigits


def test_the_noise_has_the_rows_level(tmp_path):
    root = av_digits(tmp_path)
    for row, snr in ((0, 0), (4, -10)):  # rows of one recording and another noise level
        mixed = AVDigits(root).dataset("train")[row]["audio"][0]
        clean = AVDigits(root, clean=True).dataset("train")[row]["audio"][0]
        quiet = clean == 0  # outside the recording: noise alone
        voice, scale = clean[~quiet], np.linalg.lstsq(clean[:, None], mixed, rcond=None)[0][0]
        noise = mixed - scale * clean
        level = 20 * np.log10(np.sqrt((scale * voice) ** 2).mean() / np.sqrt(noise**2).mean())
        assert level == pytest.approx(snr, abs=1.5)


def test_a_missing_recording_is_named(tmp_path):
    import pandas

    root = av_digits(tmp_path)
    frame = pandas.read_parquet(root / "test.parquet")
    frame["rec_id"] = "gone"
    frame.to_parquet(root / "test.parquet")
    with pytest.raises(MediaError, match=r"audio gone is not in .*recordings\.parquet"):
        AVDigits(root).dataset("test")[0]


def test_a_truncated_table_is_named(tmp_path):
    root = av_digits(tmp_path)
    (root / "train.parquet").write_bytes((root / "train.parquet").read_bytes()[:200])
    with pytest.raises(MediaError, match=r"data file .*train\.parquet cannot be read"):
        AVDigits(root).dataset("train")


@pytest.mark.parametrize("clean", [False, True])
def test_rows_equal_those_of_the_packs_own_loader(shared, clean):
    root = shared / "packs" / "av_digits"
    theirs, ours = reference(root, "AVDigits", "validation", clean=clean), AVDigits(root, clean=clean)
    rows = ours.dataset("validation")
    assert (ours.size("train"), len(rows), ours.size("test")) == (10000, 1000, 2000)
    for i in range(0, 1000, 100):
        want, got = theirs[i], rows[i]
        np.testing.assert_allclose(got["audio"][0], want["audio"], atol=1e-6)
        assert (got["image"] == want["image"][..., None]).all()
        assert got["label"] == want["label"]

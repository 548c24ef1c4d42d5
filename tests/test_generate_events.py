"""Generated data sets in official layouts: the rows of their source, and labels that need both senses."""

import numpy as np
import pytest

from benchmarks import generate_events
from benchmarks.generate import RATE
from hmmoe.data.prepare import prepare, recognise
from hmmoe.tasks.ave import AVE
from hmmoe.tasks.ave_segments import AVEMini
from hmmoe.tasks.avvp import AVVP, CLASSES


def test_the_pack_s_rows_come_back_from_their_videos(shared, tmp_path):
    pack = shared / "packs" / "ave_mini"
    ours = AVE(generate_events.ave(tmp_path, pack, rows=2)).dataset("test")[1]
    theirs = AVEMini(pack).dataset("test")[1]
    assert (ours["label"] == theirs["label"]).all()
    assert np.abs(ours["video"].astype(int) - theirs["video"]).mean() < 5
    waves = [np.concatenate([second for second, _ in row["audio"]]) for row in (ours, theirs)]
    assert np.corrcoef(*waves)[0, 1] > 0.99


@pytest.fixture(scope="module")
def llp(tmp_path_factory):
    raw, out = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("out")
    generate_events.llp(raw, (4, 2, 12))
    assert prepare(recognise(raw), raw, out).share == 1
    return AVVP(out)


def test_events_are_heard_and_seen_in_the_same_seconds(llp):
    for row in llp.dataset("test"):
        heard, seen = row["label"]
        assert (heard == seen).all()
        assert 1 <= heard.any(1).sum() <= 2
    assert all(1 <= row["label"].sum() <= 2 for row in llp.dataset("train"))


def test_what_an_event_is_takes_its_shape_and_its_hum(llp):
    for row in llp.dataset("test"):
        for second, (image, (wave, _)) in enumerate(zip(row["video"], row["audio"], strict=True)):
            there = [CLASSES[int(index)] for index in row["label"][0][:, second].nonzero()[0]]
            spectrum = np.abs(np.fft.rfft(wave))
            assert len(there) == (spectrum.max() > 50)
            if there:
                pitch = spectrum.argmax() * RATE / len(wave)
                assert (there[0] in ("Motorcycle", "Dog")) == (pitch > 600)
                shape = np.abs(image.astype(int) - np.median(image, (0, 1))).max(2) > 50
                box = shape.any(0).sum() * shape.any(1).sum()
                assert (there[0] in ("Cat", "Dog")) == (
                    shape.sum() > 0.9 * box
                )  # a disc fills π/4 of its box

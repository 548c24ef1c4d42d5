"""Generated data sets in official layouts: the rows of their source, and labels that need both senses."""

import numpy as np
import pytest

from benchmarks import generate_events
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
    generate_events.llp(raw, (4, 2, 12), side=32)
    assert prepare(recognise(raw), raw, out).share == 1
    return AVVP(out)


def test_every_video_holds_one_event_heard_and_one_seen(llp):
    for row in llp.dataset("test"):
        heard, seen = row["label"]
        assert (heard.any(1).sum(), seen.any(1).sum()) == (1, 1)
    assert all(1 <= row["label"].sum() <= 2 for row in llp.dataset("train"))


def test_what_is_heard_takes_sight_and_what_is_seen_takes_hearing(llp):
    for row in llp.dataset("test"):
        heard, seen = (CLASSES[int(table.any(1).argmax())] for table in row["label"])
        spectrum = np.abs(np.fft.rfft(np.concatenate([wave for wave, _ in row["audio"]])))
        bright = np.median(row["video"]) > 120
        assert bright == (heard in ("Car", "Dog"))
        whistle = spectrum[26000:30200].max() > 500  # 2.6 to 3.02 kHz, between the harmonics of the hums
        assert whistle == (seen in ("Car", "Dog"))

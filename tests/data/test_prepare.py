"""Preparing official videos: what is written, named and counted; going on after a stop; a wrong layout."""

import io
import json
import os

import numpy as np
import pytest
import soundfile

from hmmoe.data import decode_image
from hmmoe.data import prepare as engine
from hmmoe.data.prepare import check, data_set, prepare, read_journal, recognise, tables
from hmmoe.data.sets import SETS
from official import AVE_ROWS, ave_annotations, ave_raw, movie, tone


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Five AVE videos: two good, one without sound, one silent, one cut short; a sixth is missing."""
    folder = ave_raw(tmp_path_factory.mktemp("raw"))
    movie(folder / "AVE" / "bell0000001.mp4", [50] * 10)
    movie(folder / "AVE" / "bell0000002.mp4", [50] * 10, np.zeros(160000, np.float32))
    cut = folder / "AVE" / "truck000001.mp4"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (folder / "AVE" / "dog_0000001.mp4").unlink()
    return folder


@pytest.fixture(scope="module")
def done(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    told = []
    return out, prepare(SETS["ave"], raw, out, tell=told.append), told


def test_pictures_and_sound_are_written_at_the_rates_of_the_task(done):
    out, _, _ = done
    files = sorted((out / "video_frames" / "dog_0000002").iterdir())
    assert [f.name for f in files] == [f"{n:04d}.jpg" for n in range(1, 11)]
    greys = [decode_image(f).mean() for f in files]
    np.testing.assert_allclose(greys, [200] * 4 + [40] + [200] * 4 + [40], atol=10)
    wave, rate = soundfile.read(out / "raw_audio" / "dog_0000002.wav")
    assert (rate, len(wave)) == (16000, 160000)
    levels = np.abs(wave.reshape(10, -1)).max(1) > 0.1
    assert levels[[0, 1, 2, 3, 5, 6, 7, 8]].all()
    assert not levels[[9]].any()
    assert (out / "Annotations.txt").is_file()


def test_what_is_missing_broken_silent_or_without_sound_is_named_and_counted(done):
    out, report, told = done
    assert {name: o.status for name, o in report.outcomes.items()} == {
        "bell0000001": "without sound",
        "dog_0000001": "missing",
        "dog_0000002": "whole",
        "bell0000002": "silent",
        "truck000001": "broken",
    }
    assert report.rows == {"train": (1, 3, 3339), "validation": (1, 1, 402), "test": (1, 2, 402)}
    assert report.share == 2 / 5
    assert "truck000001.mp4" in report.outcomes["truck000001"].why
    assert read_journal(out) == report.outcomes
    assert not (out / "video_frames" / "truck000001").exists()
    assert not list(out.rglob(".*"))
    assert told[-2:] == [{"phase": "decode", "step": 4, "steps": 4, "rows": 1}, {"phase": "done"}]


def test_a_second_call_decodes_only_what_was_missing_or_broken(raw, done, monkeypatch):
    out, report, _ = done
    decoded = []
    work = engine._Decode.__call__
    monkeypatch.setattr(
        engine._Decode, "__call__", lambda self, job: decoded.append(job[0].name) or work(self, job)
    )
    assert prepare(SETS["ave"], raw, out).outcomes == report.outcomes
    assert decoded == ["truck000001"]


def test_after_a_kill_it_goes_on_and_a_video_that_changed_is_decoded_again(tmp_path, monkeypatch):
    raw, out = ave_raw(tmp_path / "raw"), tmp_path / "out"
    work = engine._Decode.__call__

    def dies(self, job):
        if job[0].name == "dog_0000002":
            raise KeyboardInterrupt
        return work(self, job)

    monkeypatch.setattr(engine._Decode, "__call__", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare(SETS["ave"], raw, out)
    assert list(read_journal(out)) == ["bell0000001", "dog_0000001"]
    with (out / engine.JOURNAL).open("a") as file:
        file.write('{"name": "dog_00')  # the kill came in the middle of a line
    movie(raw / "AVE" / "bell0000001.mp4", [90] * 10, tone(10))
    decoded = []
    monkeypatch.setattr(
        engine._Decode, "__call__", lambda self, job: decoded.append(job[0].name) or work(self, job)
    )
    assert prepare(SETS["ave"], raw, out).share == 1
    assert decoded == ["bell0000001", "dog_0000002", "bell0000002", "truck000001"]
    assert decode_image(out / "video_frames" / "bell0000001" / "0001.jpg").mean() == pytest.approx(90, abs=5)


def test_a_video_that_ends_before_its_annotation_is_no_use(tmp_path):
    raw = ave_annotations(
        tmp_path,
        [("Bark", "dog_0000001", 2, 8)] * 2,
        {
            "trainSet.txt": [0],
            "valSet.txt": [],
            "testSet.txt": [],
        },
    )
    movie(raw / "AVE" / "dog_0000001.mp4", [9] * 4, tone(4))
    outcome = prepare(SETS["ave"], raw, tmp_path / "out").outcomes["dog_0000001"]
    assert outcome.status == "shorter than annotated"
    assert outcome.why == "it ends at 4.0 s, annotations go on to 8 s"


def test_processes_give_the_same_result(raw, done, tmp_path):
    _, report, _ = done
    assert prepare(SETS["ave"], raw, tmp_path, workers=2) == report


def test_check_counts_what_is_there_and_finds_what_broke_since(raw, tmp_path):
    prepare(SETS["ave"], raw, tmp_path)
    assert recognise(tmp_path).name == "ave"
    report = check(recognise(tmp_path), tmp_path)
    assert report.names("whole") == ["dog_0000002"]
    assert report.names("silent") == ["bell0000002"]
    assert report.names("without sound") == ["bell0000001"]
    assert sorted(report.names("missing")) == ["dog_0000001", "truck000001"]
    picture = tmp_path / "video_frames" / "dog_0000002" / "0007.jpg"
    picture.write_bytes(picture.read_bytes()[:100])
    report = check(recognise(tmp_path), tmp_path)
    assert "0007.jpg cannot be decoded" in report.outcomes["dog_0000002"].why


def test_the_table_gives_numbers_names_and_shares(done):
    from rich.console import Console

    console = Console(width=140, record=True, file=io.StringIO())
    for view in tables(done[1]):
        console.print(view)
    text = console.export_text()
    for words in ("AVE: 40.0% of 5 clips usable", "truck000001", "3,339", "33.3%"):
        assert words in text


def test_a_wrong_layout_says_which_file_is_missing_where(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder .*gone does not exist"):
        prepare(SETS["ave"], tmp_path / "gone", tmp_path / "out")
    with pytest.raises(
        FileNotFoundError, match=r"data file Annotations\.txt, .* does not exist in .*looked in"
    ):
        prepare(SETS["ave"], tmp_path, tmp_path / "out")
    ave_annotations(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none of the 5 videos .* expected AVE/bell0000001\.mp4 or"):
        prepare(SETS["ave"], tmp_path, tmp_path / "out")
    (tmp_path / "valSet.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"valSet\.txt or val_order\.h5"):
        prepare(SETS["ave"], tmp_path, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"annotation files of no data set: ave: .*; llp: "):
        recognise(tmp_path)


def test_an_unknown_data_set_is_named():
    with pytest.raises(ValueError, match="unknown data set 'lpl', did you mean 'llp'"):
        data_set("lpl")


@pytest.mark.parametrize("name", SETS)
def test_every_data_set_says_where_things_are(name):
    data = SETS[name]
    assert data.name == name
    for patterns in (data.frames, data.audio, data.video):
        assert len(patterns) >= 1
    assert all(split.endswith(("train", "validation", "test")) for split in data.official)  # "MS3 test" too
    assert json.dumps(data.title)
    assert list(data.times) == sorted(data.times)


def test_a_clip_that_kills_the_decoder_is_counted_as_broken(tmp_path):
    raw = ave_raw(tmp_path / "raw", AVE_ROWS[:2], {"trainSet.txt": [0], "valSet.txt": [1], "testSet.txt": []})
    report = prepare(_Deadly(), raw, tmp_path / "out", workers=1)
    assert report.outcomes["bell0000001"].why == "decoding it killed the process"
    assert report.outcomes["dog_0000001"].status == "whole"


class _Deadly(type(SETS["ave"])):
    """Ends its process at a video that begins brightly."""

    calls = 0

    def resize(self, image):
        self.calls += 1
        if self.calls == 1 and image.mean() > 190:
            os._exit(1)
        return super().resize(image)

"""Files that are there whole or not at all."""

import pytest

from hmmoe.files import read_own_json, write_json, write_whole


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "new" / "result.json"
    write_whole(file, "one")
    assert file.read_text() == "one"

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("hmmoe.files.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(file, "two")
    assert [f.read_text() for f in file.parent.iterdir()] == ["one"]


def test_json_comes_back_and_a_damaged_file_is_named_with_the_mend(tmp_path):
    file = tmp_path / "known.json"
    write_json(file, {"ä": [1.5, None]})
    assert file.read_text(encoding="utf-8").splitlines()[1] == ' "ä": ['
    assert read_own_json(file, "delete it") == {"ä": [1.5, None]}
    file.write_text("{")
    with pytest.raises(ValueError, match=r"known\.json' is damaged \(.*\); delete it$"):
        read_own_json(file, "delete it")

"""Files that are there whole or not at all."""

import pytest

from hmmoe.files import write_whole


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

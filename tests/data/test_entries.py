import pytest

from hmmoe.data.entries import read_json, read_lines, read_text, take
from hmmoe.data.media import MediaError


def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path):
    file = tmp_path / "list.json"
    file.write_bytes(b"\xef\xbb\xbf[1]")
    assert read_text(file) == "[1]"
    assert read_json(file) == [1]


@pytest.mark.parametrize("read", [read_text, read_json, lambda file: list(read_lines(file))])
def test_a_file_that_is_missing_or_no_text_is_named_once(read, tmp_path):
    file = tmp_path / "list.json"
    with pytest.raises(FileNotFoundError, match=r"^the data file .*list\.json does not exist$"):
        read(file)
    file.write_bytes(b"[1, \xff]")
    with pytest.raises(MediaError, match=r"^\S*list\.json is not text: .*0xff"):
        read(file)


def test_what_is_not_json_is_named_with_its_line(tmp_path):
    file = tmp_path / "list.json"
    file.write_text('{"a": 1}\n\n{"a"')
    with pytest.raises(MediaError, match=r"list\.json is not JSON: .*line 3"):
        read_json(file)
    lines = read_lines(file)
    assert next(lines) == (f"line 1 of {file}", {"a": 1})
    with pytest.raises(MediaError, match=r"^line 3 of .*list\.json is not JSON"):
        next(lines)


def test_values_come_in_the_order_of_the_keys():
    assert take({"a": 1, "b": 2}, ["b", "a"], "entry 1") == [2, 1]


@pytest.mark.parametrize("entry", [{"a": 1}, [1, 2], None])
def test_an_entry_that_lacks_a_key_or_is_no_mapping_is_named(entry):
    with pytest.raises(MediaError, match=r"^entry 1 has no '[ab]'; it should hold a, b$"):
        take(entry, ["a", "b"], "entry 1")

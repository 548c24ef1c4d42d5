"""Shards hold the rows they were written from; streams over them shuffle and resume as over files."""

import json
import tarfile

import numpy as np
import pytest
from packs import av_digits, ave_mini, easy_vqa

from hmmoe.data import MediaError, StreamLoader
from hmmoe.data.shards import Shards, write_shards
from hmmoe.tasks.av_digits import AVDigits
from hmmoe.tasks.ave_segments import AVEMini
from hmmoe.tasks.easy_vqa import EasyVQA


def _same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, list | tuple):
            for a, b in zip(value, other[key], strict=True):
                _same({"x": a}, {"x": b})
        elif isinstance(value, np.ndarray) and value.dtype == np.float32:
            np.testing.assert_allclose(value, other[key], atol=2**-23)
        else:
            assert np.array_equal(value, other[key]), key
            assert type(value) is type(other[key])


@pytest.mark.parametrize(("kind", "make"), [(AVDigits, av_digits), (AVEMini, ave_mini), (EasyVQA, easy_vqa)])
def test_rows_come_back_as_they_went_in(kind, make, tmp_path):
    plain = kind(make(tmp_path))
    rows = plain.dataset("train")
    assert write_shards(rows, tmp_path / "shards", "train", per_shard=4) == []
    back = kind(tmp_path, shards=str(tmp_path / "shards")).dataset("train")
    assert len(back) == len(rows)
    for i in range(len(rows)):
        assert back.number(i) == rows.number(i)
        _same(back[i], rows[i])


@pytest.fixture
def written(tmp_path):
    task = EasyVQA(easy_vqa(tmp_path))
    write_shards(task.dataset("train"), tmp_path / "shards", "train", per_shard=8)
    return task, tmp_path / "shards"


def test_a_shard_is_a_tar_of_a_few_rows_with_an_index(written):
    task, folder = written
    with tarfile.open(folder / "train-00001.tar") as tar:
        names = tar.getnames()
    assert names[:3] == ["000000008.row.json", "000000008.image.0.png", "000000008.label.npy"]
    index = json.loads((folder / "train.json").read_text())
    assert len(index["shards"]) == -(-task.size("train") // 8)
    assert not list(folder.glob(".*"))


def test_a_stream_over_shards_resumes_exactly(written):
    task, folder = written
    sharded = EasyVQA(task.root, shards=str(folder))

    def loader(of):
        return StreamLoader(of.stream("train", batch_size=4, shuffle=True, seed=3), _numbers)

    want = list(loader(task))
    first = loader(sharded)
    batches = iter(first)
    got = [next(batches) for _ in range(3)]
    again = loader(sharded)
    again.load_state_dict(first.state_dict())
    assert got + list(again) == want


def _numbers(rows):
    return [row["index"] for row in rows]


def test_a_stopped_write_goes_on_without_reading_what_is_done(written, monkeypatch):
    task, folder = written
    (folder / "train.json").unlink()
    (folder / "train-00002.json").unlink()
    read = []
    original = EasyVQA.read
    monkeypatch.setattr(EasyVQA, "read", lambda self, *at: read.append(at[1]) or original(self, *at))
    write_shards(task.dataset("train"), folder, "train", per_shard=8)
    assert read == list(range(16, 24))


def test_broken_rows_are_left_out_and_named_and_the_others_keep_their_numbers(tmp_path):
    task = EasyVQA(easy_vqa(tmp_path))
    (tmp_path / "test" / "images" / "1.png").write_bytes(b"no")
    skipped = write_shards(task.dataset("test"), tmp_path / "shards", "test")
    assert len(skipped) == 1
    assert "1.png cannot be decoded" in skipped[0]
    back = EasyVQA(tmp_path, shards=str(tmp_path / "shards")).dataset("test")
    assert [back.number(i) for i in range(len(back))] == [0, 2, 3, 4]
    assert back[1]["index"] == task.dataset("test")[2]["index"]


def test_shards_are_read_from_any_address(written):
    import fsspec

    task, folder = written
    memory = fsspec.filesystem("memory")
    for file in folder.iterdir():
        memory.pipe(f"/far/{file.name}", file.read_bytes())
    back = EasyVQA(task.root, shards="memory://far").dataset("train")
    _same(back[5], task.dataset("train")[5])


def test_shards_that_are_not_there_or_cut_short_are_named(written):
    task, folder = written
    with pytest.raises(FileNotFoundError, match=r"test\.json does not exist in .*shards; write shards with"):
        Shards(folder, "test")
    file = folder / "train-00000.tar"
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(MediaError, match=r"row 7 of .*train-00000\.tar cannot be read: the file is cut"):
        EasyVQA(task.root, shards=str(folder)).dataset("train")[7]
    with pytest.raises(ValueError, match="is of another number of rows"):
        write_shards(task.dataset("train"), folder, "train", per_shard=9)


@pytest.mark.parametrize("damage", ["{", "[]", "{}"])
@pytest.mark.parametrize("name", ["train.json", "train-00001.json"])
def test_a_damaged_index_is_named(written, name, damage):
    task, folder = written
    (folder / name).write_text(damage)
    with pytest.raises(ValueError, match=rf"shards/{name} is damaged: .*; delete it and write"):
        Shards(folder, "train")
    with pytest.raises(ValueError, match=rf"shards/{name} is damaged: .*; delete it and write"):
        write_shards(task.dataset("train"), folder, "train", per_shard=8)

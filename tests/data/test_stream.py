"""Streaming: no row twice, none lost, the same batches for any number of workers, exact resume."""

from itertools import chain

import pytest

from hmmoe.data import MediaError, Stream, StreamLoader


class Numbers:
    def __init__(self, count, broken=()):
        self.count, self.broken = count, broken

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        if i in self.broken:
            raise MediaError(f"row {i}")
        return i


class Once:
    """A source that can only be read from the start."""

    def __iter__(self):
        return iter(range(11))


def _loader(source=None, workers=0, **options):
    stream = Stream(
        source if source is not None else Numbers(11), **{"batch_size": 2, "shuffle": True, **options}
    )
    return StreamLoader(stream, list, num_workers=workers)


def test_an_epoch_gives_each_row_once_and_epochs_differ():
    loader = _loader()
    first, second = list(loader), list(loader)
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(11))
    assert first != second
    assert list(_loader()) == first


def test_batches_do_not_depend_on_the_number_of_workers():
    assert list(_loader(workers=2)) == list(_loader())


def test_ranks_share_the_rows_and_get_equally_many_batches():
    parts = [list(_loader(rank=r, world=2)) for r in range(2)]
    assert len(parts[0]) == len(parts[1]) == 3
    rows = [*chain(*parts[0], *parts[1])]
    assert len(rows) == len(set(rows))
    assert next(iter(_loader(source=Numbers(8), rank=0, world=2))) == next(iter(_loader(source=Numbers(8))))


@pytest.mark.parametrize("source", [Numbers(11), Once()])
@pytest.mark.parametrize("workers", [0, 2])
def test_resume_goes_on_exactly_where_it_stopped(source, workers):
    options = {"source": source, "shuffle": isinstance(source, Numbers)}
    whole = _loader(**options)
    want = list(whole) + list(whole)

    stopped = _loader(**options, workers=workers)
    got, batches = [], iter(stopped)
    for _ in range(4):
        got.append(next(batches))
    state = stopped.state_dict()
    batches.close()

    resumed = _loader(**options)
    resumed.load_state_dict(state)
    got += list(resumed)
    got += list(resumed)
    assert got == want


def test_resume_at_the_end_of_an_epoch_starts_the_next():
    loader = _loader()
    list(loader)
    again = _loader()
    again.load_state_dict(loader.state_dict())
    assert list(again) == list(loader)


def test_a_broken_row_stops_or_is_skipped_and_counted():
    with pytest.raises(MediaError, match="row 3"):
        list(_loader(source=Numbers(11, broken={3})))
    for workers in (0, 2):
        loader = _loader(source=Numbers(11, broken={3, 4}), skip_broken=True, shuffle=False, workers=workers)
        assert list(loader) == [[0, 1], [2], [5], [6, 7], [8, 9], [10]]
        assert loader.skipped == 2
        assert loader.state_dict()["skipped"] == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 2, "world": 2}, "rank must be from 0 to world - 1 = 1, got 2"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"source": Once()}, "shuffle needs a source with a length"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        _loader(**options)


def test_a_state_of_another_seed_is_refused():
    with pytest.raises(ValueError, match="seed 0, this one 1"):
        _loader(seed=1).load_state_dict(_loader().state_dict())

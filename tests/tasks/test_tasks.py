"""What every task in the registry promises: rows, splits, options, heads and words."""

import pickle

import numpy as np
import pytest
import torch
from packs import PACKS
from text_visual import SETS

from generated import GENERATED, sure
from hmmoe.data import StreamLoader
from hmmoe.tasks import TASKS
from hmmoe.tasks.pairs import Pairs
from official import OFFICIAL, perfect

LAYOUTS = PACKS | SETS | GENERATED | OFFICIAL

# Other tests add toys; heads that read several scales of a tower, and what writes, have tests of their own.
OURS = [n for n, t in TASKS.items() if t.__module__.startswith("hmmoe.") and not t.levels and not t.writes]


@pytest.fixture(params=OURS)
def task(request, tmp_path):
    return TASKS[request.param](LAYOUTS[request.param](tmp_path))


def _states(task, widths, batch=3):
    """Random states of the towers, folded streams with as many items as a row holds."""
    row = task.dataset("train")[0]
    leads = {m: (batch, len(row[m])) if m in task.folded else (batch,) for m in widths}
    return {m: torch.randn(*leads[m], 5, width) for m, width in widths.items()}


def _perfect(task, labels):
    """Logits of a model that knows the answers."""
    if task.name in GENERATED:
        return sure(task, labels)
    if task.name in OFFICIAL:
        return perfect(task, labels)
    if isinstance(task, Pairs):
        same = torch.eye(len(labels))
        return {"text": same[labels[:, 0]], "media": same[labels[:, 1].clamp(min=0)]}
    if task.groups:
        same = torch.eye(len(labels))
        return {"image": same, "query": same}
    columns = labels[:, {"vqav2": 1}.get(task.name, 0)] if task.name in SETS else labels
    return torch.nn.functional.one_hot(columns, 14).float()


def test_every_split_has_rows_of_raw_media_and_a_label(task):
    seen = set()
    for split in ("train", "validation", "test"):
        rows = task.dataset(split)
        assert len(rows) == task.size(split) > 0
        for row in rows:
            assert row.keys() == {"index", "label", *task.streams}
            seen.add(row["index"])
    assert len(seen) == sum(task.size(s) for s in ("train", "validation", "test"))


def test_raw_media_are_of_the_streams_modality(task):
    row = task.dataset("train")[0]
    for stream, kind in task.streams.items():
        for item in row[stream] if stream in task.folded else [row[stream]]:
            if kind == "image":
                assert item.dtype == np.uint8
                assert item.shape[2] == 3
            elif kind == "audio":
                assert item[0].dtype == np.float32
                assert item[1] in (8000, 16000)
            else:
                assert isinstance(item, str)


def test_a_limit_draws_the_same_rows_each_time_and_others_with_another_seed(task):
    kind, options = type(task), {"train_rows": 2}

    def drawn(**more):
        return [row["index"] for row in kind(task.root, **options, **more).dataset("train")]

    assert len(drawn()) == 2
    assert drawn() == drawn()
    if task.size("train") > 5:
        assert len({tuple(drawn(subset_seed=s)) for s in range(5)}) > 1


def test_rows_stream_in_the_same_form(task):
    stream = task.stream("train", batch_size=2)
    first = next(iter(StreamLoader(stream, list)))
    assert [row["index"] for row in first] == [task.dataset("train")[i]["index"] for i in range(2)]


def test_rows_can_go_to_worker_processes(task):
    row = pickle.loads(pickle.dumps(task.dataset("test")))[0]
    assert row["index"] == task.dataset("test")[0]["index"]


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_head_learns_from_all_streams(task, kind):
    task = type(task)(task.root, head=kind)
    widths = {m: 4 + i for i, m in enumerate(task.streams)}
    head = task.head(widths)
    states = {m: x.requires_grad_() for m, x in _states(task, widths).items()}
    logits = head(states, dict.fromkeys(states))
    rows = task.dataset("train")
    labels = torch.as_tensor(np.stack([rows[3 * i % len(rows)]["label"] for i in range(3)]))
    loss = head.loss(logits, labels)
    loss.backward()
    assert loss.ndim == 0
    for m, x in states.items():
        assert x.grad.abs().sum() > 0, m
    for name, p in head.named_parameters():
        assert p.grad is not None, name


def test_metrics_hold_the_headline_and_a_perfect_answer_scores_100(task):
    labels = torch.as_tensor(np.stack([row["label"] for row in task.dataset("test")]))
    assert task.metrics(_perfect(task, labels), labels)[task.metric] == 100


def test_a_row_is_shown_with_all_its_streams_and_words(task):
    widths = dict.fromkeys(task.streams, 4)
    head = task.head(widths)
    states = _states(task, widths, batch=1)
    logits = head(states, dict.fromkeys(states))
    one = {k: v[0] for k, v in logits.items()} if isinstance(logits, dict) else logits[0]
    row = task.dataset("test")[0]
    shown = task.show(row, one)
    assert [p["stream"] for p in shown["parts"]] == list(task.streams)
    starts = {"png": b"\x89PNG", "wav": b"RIFF"}
    for p in shown["parts"]:
        assert p["data"].startswith(starts[p["kind"]]) if p["kind"] in starts else isinstance(p["data"], str)
    assert isinstance(shown["target"], str)
    assert isinstance(shown["prediction"], str)
    assert task.show(row)["prediction"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train_row": 5}, "'train_row', did you mean 'train_rows'"),
        ({"train_rows": 0}, "train_rows must be at least 1, got 0"),
        ({"test_rows": "all"}, "test_rows must be int or nothing, got 'all'"),
        ({"head": "liner"}, "'liner', did you mean 'linear'"),
    ],
)
def test_bad_options_are_named(task, options, words):
    with pytest.raises(ValueError, match=words):
        type(task)(task.root, **options)


def test_an_unknown_split_is_named(task):
    with pytest.raises(ValueError, match="unknown split 'valid', did you mean 'validation'"):
        task.dataset("valid")


def test_an_unknown_stream_in_the_users_input_is_named(task):
    with pytest.raises(ValueError, match=r"unknown stream .*'imgae'"):
        task.from_files(imgae="x.png")


def test_a_folder_that_is_not_there_is_named(task, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no folder: .*gone"):
        type(task)(tmp_path / "gone").dataset("train")


def test_a_folder_without_the_data_names_the_file_that_is_missing(task, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        FileNotFoundError,
        match=r"the data file (?=.*empty).*does not exist|the data file .*does not exist.*empty",
    ):
        type(task)(tmp_path / "empty").dataset("train")


@pytest.mark.parametrize("name", [n for n in OURS if n != "easy_vqa"])
def test_a_task_without_a_package_needs_its_folder(name):
    with pytest.raises(FileNotFoundError, match=f"task '{name}' needs root"):
        TASKS[name]().dataset("train")

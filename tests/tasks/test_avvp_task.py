"""AVVP on LLP: rows of both kinds, learning from the video's classes alone, and what a wrong file says."""

import shutil

import numpy as np
import pytest
import torch

from hmmoe.data import MediaError
from hmmoe.data.prepare import check, prepare, recognise
from hmmoe.data.sets import SETS
from hmmoe.tasks.avvp import AVVP, CLASSES
from hmmoe.tasks.parsing_head import ParsingHead
from official import avvp_logits, llp_raw

SPEECH, DOG, CELLO = (CLASSES.index(name) for name in ("Speech", "Dog", "Cello"))


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    return llp_raw(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared")
    assert prepare(SETS["llp"], raw, out).share == 1
    return out


@pytest.fixture
def han(prepared, tmp_path):
    """Tables in data/, media in LLP_dataset/, waveforms of 32 kHz."""
    return _moved(prepared, tmp_path, tmp_path / "data", tmp_path / "LLP_dataset")


@pytest.fixture
def dg_sct(prepared, tmp_path):
    """As DG-SCT and AVMoE keep it: tables in data/AVVP/, media in its LLP_dataset/, waveforms of 32 kHz."""
    home = tmp_path / "data" / "AVVP"
    return _moved(prepared, tmp_path, home, home / "LLP_dataset")


def _moved(prepared, root, tables, media):
    import soundfile

    tables.mkdir(parents=True)
    for table in prepared.glob("*.csv"):
        shutil.copy(table, tables)
    shutil.copytree(prepared / "frame", media / "frame")
    (media / "wave").mkdir()
    for file in (prepared / "audio").iterdir():
        wave = soundfile.read(file, dtype="float32")[0]
        np.save(media / "wave" / f"{file.stem}.npy", np.repeat(wave, 2))
    return root


@pytest.mark.parametrize("layout", ["raw", "prepared", "han", "dg_sct"])
def test_rows_are_the_same_in_every_layout(layout, request):
    task = AVVP(request.getfixturevalue(layout))
    assert [task.size(split) for split in ("train", "validation", "test")] == [3, 2, 2]
    train, test = task.dataset("train")[0], task.dataset("test")[0]
    assert np.flatnonzero(train["label"]).tolist() == [SPEECH, DOG]
    heard, seen = test["label"]
    assert heard[SPEECH].tolist() == [1] * 5 + [0] * 5
    assert heard[CELLO].tolist() == seen[CELLO].tolist() == [0] * 5 + [1] * 5
    assert (heard.sum(), seen.sum()) == (10, 5)
    assert test["video"].shape == (10, 32, 32, 3)
    assert [len(wave) / rate for wave, rate in test["audio"]] == [1] * 10


def test_a_prepared_folder_is_recognised_and_holds_a_picture_a_second(prepared):
    assert recognise(prepared).name == "llp"
    names = sorted(f.name for f in (prepared / "frame" / "-val0000001").iterdir())
    assert names == [f"{n:08d}.jpg" for n in range(1, 11)]


def test_an_event_that_ends_before_it_begins_holds_no_second(prepared):
    heard, _ = AVVP(prepared).dataset("test")[1]["label"]
    assert heard.sum() == 2  # 2 to 4; the row from 7 to 6 is one of the official file's kind


def test_a_perfect_answer_scores_100_and_none_scores_0(prepared):
    task = AVVP(prepared)
    labels = torch.as_tensor(np.stack([row["label"] for row in task.dataset("test")]))
    scores = task.metrics(avvp_logits(labels), labels)
    assert len(scores) == 10
    assert set(scores.values()) == {100.0}
    nothing = task.metrics(avvp_logits(torch.zeros_like(labels)), labels)
    assert nothing["segment_type"] == nothing["event_event"] == 0


def test_a_class_counts_in_a_second_only_if_it_is_in_the_video(prepared):
    task = AVVP(prepared)
    tables = torch.zeros(1, 2, 25, 10)
    tables[0, 0, DOG, 3:5] = 1
    logits = avvp_logits(tables)
    assert task.predicted(logits)[0, 0, DOG].tolist() == [False] * 3 + [True] * 2 + [False] * 5
    logits["whole"] = torch.full_like(logits["whole"], 0.4)
    assert not task.predicted(logits).any()


@pytest.mark.parametrize("head", ["linear", "mlp", "hybrid"])
def test_what_is_heard_and_seen_is_learned_from_the_video_s_classes_alone(prepared, head):
    """Sound and picture each show one of four classes in half of the seconds, independently."""
    torch.manual_seed(0)
    task = AVVP(prepared, head=head)
    which = torch.randint(4, (48, 2))
    on = torch.rand(48, 2, 10) < 0.5
    states = torch.zeros(48, 2, 10, 1, 5)
    states[..., 4] = 1
    states.scatter_(-1, which[:, :, None, None, None].expand(-1, -1, 10, 1, 1), on[..., None, None].float())
    tables = torch.zeros(48, 2, 25, 10)
    tables.scatter_(2, which[:, :, None, None].expand(-1, -1, 1, 10), on[:, :, None].float())
    model = task.head({"audio": 5, "video": 5})
    inputs = {"audio": states[:, 0], "video": states[:, 1]}
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        optimiser.zero_grad()
        model.loss(model(inputs, {}), tables.amax((1, 3))).backward()
        optimiser.step()
    with torch.no_grad():
        logits = model(inputs, {})
    there = (logits["whole"] >= 0.5) == tables.amax((1, 3)).bool()
    assert there.float().mean() > 0.95
    if head != "hybrid":  # attention over seconds may know the video's classes in every second
        assert task.metrics(logits, tables)["segment_visual"] > 85


def test_the_loss_takes_of_full_tables_what_is_in_the_video_at_all(prepared):
    head = ParsingHead({"audio": 4, "video": 4}, 25)
    logits = head({m: torch.randn(2, 10, 3, 4) for m in ("audio", "video")}, {})
    tables = (torch.rand(2, 2, 25, 10) > 0.9).long()
    assert head.loss(logits, tables) == head.loss(logits, tables.amax((1, 3)))
    for part in ("whole", "heard", "seen"):
        assert logits[part].min() >= 0
        assert logits[part].max() <= 1 + 1e-6


def test_attention_reaches_the_other_stream(prepared):
    states = {m: torch.randn(1, 10, 3, 4, requires_grad=True) for m in ("audio", "video")}
    for kind, reached in (("linear", False), ("hybrid", True)):
        head = ParsingHead({"audio": 4, "video": 4}, 25, kind)
        grad = torch.autograd.grad(head(states, {})["audio"].sum(), states["video"], allow_unused=True)[0]
        assert (grad is not None and bool(grad.abs().sum() > 0)) == reached


def test_predictions_are_written_as_the_official_tables(prepared):
    task = AVVP(prepared)
    labels = torch.as_tensor(np.stack([row["label"] for row in task.dataset("test")]))
    files = task.result("test", [0, 1], avvp_logits(labels))
    assert set(files) == {"AVVP_pred_audio.csv", "AVVP_pred_visual.csv"}
    assert files["AVVP_pred_audio.csv"].splitlines() == [
        "filename\tonset\toffset\tevent_labels",
        "test_000001_0_10\t0\t5\tSpeech",
        "test_000001_0_10\t5\t10\tCello",
        "test_000002_0_10\t2\t4\tDog",
    ]


def test_rows_are_shown_in_words(prepared):
    task = AVVP(prepared)
    assert task.show(task.dataset("train")[0])["target"] == "Speech, Dog"
    row = task.dataset("test")[0]
    logits = {k: v[0] for k, v in avvp_logits(torch.as_tensor(row["label"])[None]).items()}
    words = "heard: 0-4 Speech, 5-9 Cello; seen: 5-9 Cello"
    assert task.show(row, logits) | {"parts": None} == {"parts": None, "target": words, "prediction": words}
    nothing = avvp_logits(torch.zeros(1, 2, 25, 10))
    assert (
        task.show(row, {k: v[0] for k, v in nothing.items()})["prediction"] == "heard: nothing; seen: nothing"
    )


@pytest.fixture
def broken(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (
            "AVVP_train.csv",
            "Speech,Dog",
            "Speech,Dgo",
            r"train\.csv line 2: unknown category 'Dgo', did you mean",
        ),
        (
            "AVVP_train.csv",
            "train000002_0_10",
            "train000001_30_40",
            "line 3 lists train000001_30_40 for the",
        ),
        (
            "AVVP_train.csv",
            "event_labels",
            "labels",
            "lacks the column event_labels; its header must",
        ),
        ("AVVP_train.csv", "train000003_0_10\tDog", "train000003_0_10", "line 4 has fewer than 2 fields"),
        (
            "AVVP_eval_audio.csv",
            "\t10\tSpeech",
            "\t11\tSpeech",
            "offset is '11', it should be a whole second",
        ),
        ("AVVP_eval_visual.csv", "\t2\t4\tSpeech", "\t2.5\t4\tSpeech", "onset is '2.5'"),
        ("AVVP_eval_visual.csv", "Cello", "Chello", "unknown category 'Chello', did you mean 'Cello'"),
    ],
)
def test_a_table_that_is_wrong_names_file_and_line(broken, file, old, new, said):
    path = broken / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    task = AVVP(broken)
    with pytest.raises(ValueError, match=said.replace("..", r"\.\.")):
        task.dataset("train"), task.dataset("validation")


def test_a_table_or_clip_that_is_gone_is_named(broken):
    rows = AVVP(broken).dataset("train")
    shutil.rmtree(broken / "frame" / "train000001")
    with pytest.raises(MediaError, match="video of llp clip train000001_30_40 does not exist: no frame/"):
        rows[0]
    (broken / "AVVP_eval_visual.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"AVVP_eval_visual\.csv, a table of LLP, does not exist in"):
        AVVP(broken).dataset("validation")  # before any row is read


def test_a_video_shorter_than_its_events_contradicts_them(tmp_path):
    from official import movie, tone

    raw = llp_raw(tmp_path / "raw")
    movie(raw / "video" / "test_000001.mp4", [60] * 6, tone(6))
    movie(raw / "video" / "train000001.mp4", [60] * 6, tone(6))  # of which nothing is said second by second
    report = prepare(SETS["llp"], raw, tmp_path / "out")
    assert report.names("shorter than annotated") == ["test_000001_0_10"]
    assert report.rows["test"] == (1, 2, 1200)
    assert check(SETS["llp"], raw).names("shorter than annotated") == ["test_000001_0_10"]
    task = AVVP(raw)
    assert len(task.read("train", 0)["video"]) == 10
    with pytest.raises(
        MediaError, match=r"test_000001\.mp4 contradicts its annotation: it ends at 6.0 s, ann"
    ):
        task.read("test", 0)

"""Progress is visible on a terminal and in a log file alike."""

import io
import re

import pytest
from rich.console import Console

from hmmoe.engine import progress
from hmmoe.engine.progress import Display

STATES = [
    {"phase": "load"},
    *(
        {"phase": "train", "step": s, "steps": 20, "rows": 8, "loss": 1 / s, "metric": None}
        for s in range(1, 11)
    ),
    {"phase": "validate", "step": 1, "steps": 3, "rows": 8, "metric": None},
    *(
        {"phase": "train", "step": s, "steps": 20, "rows": 8, "loss": 1 / s, "metric": 81.5}
        for s in range(11, 21)
    ),
    {"phase": "done"},
]


@pytest.mark.parametrize("terminal", [True, False])
def test_two_runs_show_phase_loss_metric_rate_and_time_left(terminal, monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    clock = iter(range(10**6))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    out = io.StringIO()
    with Display(Console(file=out, width=160, force_terminal=terminal)) as display:
        rows = [display.row("lora seed 0"), display.row("hmmoe seed 1")]
        for state in STATES:
            for report in rows:
                report(state)
                display.live.refresh()
        display.say("all done")
    text = out.getvalue()
    for words in (
        "lora seed 0",
        "hmmoe seed 1",
        "validate",
        "20/20",
        "loss 0.050",
        "val 81.5",
        "rows/s",
        "all done",
    ):
        assert words in text
    assert terminal or "s left" in text


def test_80_columns_hold_loss_metric_rate_and_time_left(monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock) / 10)
    out = io.StringIO()
    with Display(Console(file=out, width=80, force_terminal=True)) as display:
        report = display.row("hmmoe-rate0.003-seed0")
        for s in range(0, 1800, 3):
            report({"phase": "train", "step": s, "steps": 1872, "rows": 8, "loss": 1.2, "metric": 92.31})
        display.live.refresh()
    assert re.search(r"loss 1\.200 val 92\.31 \d+ rows/s\S* \S*\d\d:\d\d", out.getvalue())


def test_reports_that_were_held_up_and_come_at_once_hardly_change_the_rate(monkeypatch):
    times = iter([0.0, 1.0, 2.0, 3.0, 3.0, 3.0])  # a row a second, then three reports at once
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    rate = progress._Rate()
    got = [rate({"phase": "train", "step": s, "steps": 9, "rows": 1}) for s in range(1, 7)]
    assert got[3] == pytest.approx(1.0)
    assert 1.0 < got[-1] < 1.5

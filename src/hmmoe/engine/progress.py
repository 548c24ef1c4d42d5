"""Progress of one or several runs: live bars on a terminal, a line now and then in a log file."""

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

Report = Callable[[dict[str, Any]], None]
LOG_SECONDS = 10.0


class Display:
    """Context manager; `row(name)` gives the function that a run reports its state to.

    A report is a mapping: `phase` ("remember", "train", "validate", "test", or words), and where they are
    known `step`, `steps`, `rows` per step, `loss`, `metric` (the newest validation value).
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.live = Progress(
            TextColumn("{task.description}"),  # all as narrow as can be, so that 80 columns hold it
            TextColumn("{task.fields[phase]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[words]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self.console.is_terminal,
            expand=True,
        )

    def __enter__(self) -> "Display":
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def say(self, line: str) -> None:
        """A line above the bars."""
        self.live.console.print(line, highlight=False)

    def row(self, name: str) -> Report:
        """Add a row for a run."""
        return self._live_row(name) if self.console.is_terminal else self._log_row(name)

    def _live_row(self, name: str) -> Report:
        task = self.live.add_task(name, total=1, phase="start", words="")
        rate = _Rate()

        def report(state: dict[str, Any]) -> None:
            if state["phase"] == "done":
                self.live.remove_task(task)
                return
            if (
                state["phase"] == "train"
                and state["step"] < self.live.tasks[self.live.task_ids.index(task)].completed
            ):
                self.live.reset(task)
            self.live.update(
                task,
                phase=state["phase"],
                completed=state.get("step", 0),
                total=state.get("steps", 1),
                words=_words(state, rate(state)),
            )

        return report

    def _log_row(self, name: str) -> Report:
        rate, said = _Rate(), [time.monotonic()]

        def report(state: dict[str, Any]) -> None:
            speed = rate(state)
            if time.monotonic() - said[0] < LOG_SECONDS or state["phase"] == "done":
                return
            said[0] = time.monotonic()
            left = ""
            if speed and state["phase"] == "train":
                left = f" {(state['steps'] - state['step']) * state['rows'] / speed:.0f} s left"
            steps = f" {state['step']}/{state['steps']}" if "step" in state else ""
            self.console.print(
                f"{name} {state['phase']}{steps} {_words(state, speed)}{left}", highlight=False
            )

        return report


class _Rate:
    """Rows per second from reports as they come.

    What is smoothed is seconds per row, so that reports that were held up and come at once change little.
    """

    def __init__(self) -> None:
        self.last: tuple[float, int, str] | None = None
        self.pace = 0.0  # seconds per row; 0 while unknown

    def __call__(self, state: dict[str, Any]) -> float:
        if "step" in state:
            now, step, phase = time.monotonic(), state["step"], state["phase"]
            if self.last and self.last[2] == phase and step > self.last[1]:
                new = max(now - self.last[0], 1e-6) / ((step - self.last[1]) * state["rows"])
                self.pace = 0.9 * self.pace + 0.1 * new if self.pace else new
            elif self.last and self.last[2] != phase:
                self.pace = 0.0
            self.last = (now, step, phase)
        return 1 / self.pace if self.pace else 0.0


def _words(state: dict[str, Any], speed: float) -> str:
    words = []
    if state.get("loss") is not None:
        words.append(f"loss {state['loss']:.3f}")
    if state.get("metric") is not None:
        words.append(f"val {state['metric']:.4g}")
    if speed:
        words.append(f"{speed:.0f} rows/s")
    return " ".join(words)

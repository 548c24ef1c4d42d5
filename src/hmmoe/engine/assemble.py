"""From a recipe to live parts: task, towers, model, data. One seed is one head and one data order."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import hmmoe
from hmmoe.backbones import Tower, load_tower
from hmmoe.backbones.shared import SHARED, shared_tower
from hmmoe.backbones.systems import load_system
from hmmoe.backbones.words import WORDS
from hmmoe.data import Collator, Prepared
from hmmoe.data.noise import Noisy
from hmmoe.data.screen import Screened
from hmmoe.engine.recipe import Recipe
from hmmoe.errors import unknown
from hmmoe.methods import Method, make_method
from hmmoe.streams.levels import level_blocks, level_name, level_widths
from hmmoe.tasks import TASKS


@dataclass
class Parts:
    """Everything that a run works with."""

    recipe: Recipe
    task: Any  # of hmmoe.tasks
    towers: dict[str, Tower]
    method: Method
    model: Any  # as the method built it
    collator: Any
    noise: Mapping[str, float] = field(default_factory=dict)  # stream -> level

    def rows(self, split: str) -> Any:
        """The rows of a split: preprocessed once and kept in memory, or with workers read anew each time."""
        rows = self.task.dataset(split)
        if self.noise:
            rows = Noisy(rows, self.noise)
        if workers := self.recipe.train.workers:
            return Screened(rows, workers) if self.recipe.skip_broken else rows
        return Prepared(rows, self.collator.towers, self.task, skip_broken=self.recipe.skip_broken)

    def disturbed(self, without: Collection[str], noise: Mapping[str, float]) -> "Parts":
        """The same model on rows that lack the streams `without` and have `noise`, stream -> level, in some.

        Raises:
            ValueError: an unknown stream, a level that is not above 0, or nothing left to answer from.
        """
        streams = self.collator.towers
        for m in [*without, *noise]:
            if m not in streams:
                raise ValueError(unknown(f"stream of task {self.task.name!r}", m, streams))
        for m, level in noise.items():
            if not level > 0:
                raise ValueError(f"noise in stream {m!r} must be above 0, got {level:g}")
            if m in without:
                raise ValueError(f"stream {m!r} is left out, so it cannot have noise; choose one")
        given = {m: tower for m, tower in streams.items() if m not in without}
        for group in self.task.groups or [list(streams)]:
            if not set(group) & set(given):
                raise ValueError(f"nothing is left to answer from without {' and '.join(group)}; keep one")
        return replace(self, collator=Collator(given, self.task), noise=dict(noise))


def make_task(recipe: Recipe) -> Any:
    """The recipe's task.

    Raises:
        ValueError: an unknown name or option.
    """
    options = dict(recipe.task)
    name = options.pop("name")
    if name not in TASKS:
        raise ValueError(unknown("task", name, TASKS))
    return TASKS[name](**options)


def assemble(recipe: Recipe, saved: str | Path | None = None) -> Parts:
    """Build all parts of `recipe`, with the weights that a run saved in the folder `saved` where given.

    Raises:
        ValueError: an unknown name or option anywhere, or towers that do not fit the task's streams.
    """
    method = make_method(recipe.method)
    task = make_task(recipe)
    system = None
    if recipe.model is not None:
        options = dict(recipe.model)
        system = task.system = load_system(options.pop("name"), task.streams, **options)
    towers = _towers(recipe, task) if system is None else system.towers
    torch.manual_seed(recipe.train.seed)
    model = build_model(task, towers) if system is None else system.container(task)
    torch.manual_seed(recipe.train.seed + 1)  # the head is the same for all methods, whatever they draw
    model = method.load(model, str(saved)) if saved is not None else method.build(model)
    for stream in recipe.leave_out:
        if stream not in towers:
            raise ValueError(unknown(f"stream in leave_out of task {task.name!r}", stream, towers))
    given = {stream: tower for stream, tower in towers.items() if stream not in recipe.leave_out}
    if not given:
        raise ValueError(f"recipe key leave_out names all streams of task {task.name!r}; keep one")
    return Parts(recipe, task, towers, method, model, Collator(given, task))


def _towers(recipe: Recipe, task: Any) -> dict[str, Tower]:
    """The recipe's towers in the task's order, whatever the recipe's."""
    for stream in recipe.towers:
        if stream not in task.streams:
            raise ValueError(unknown(f"stream in towers of task {task.name!r}", stream, task.streams))
    missing = [stream for stream in task.streams if stream not in recipe.towers]
    if missing:
        raise ValueError(
            f"task {task.name!r} needs a tower for stream {missing[0]!r}; add towers.{missing[0]}.name"
        )
    towers: dict[str, Tower] = {}
    # shared towers last: their owners must be there
    for stream in sorted(task.streams, key=lambda m: recipe.towers[m]["name"] == SHARED):
        options = dict(recipe.towers[stream])
        kind = options.pop("name")
        if kind == WORDS:
            options.setdefault("vocabulary", getattr(task, "vocabulary", None))
        if kind == SHARED:
            towers[stream] = shared_tower(towers, **options)
        else:
            towers[stream] = load_tower(kind, **options)
        if towers[stream].modality != task.streams[stream]:
            raise ValueError(
                f"stream {stream!r} of task {task.name!r} is {task.streams[stream]}, but tower "
                f"{recipe.towers[stream]['name']!r} reads {towers[stream].modality}"
            )
    return {stream: towers[stream] for stream in task.streams}


def build_model(task: Any, towers: dict[str, Tower]) -> Any:
    """The task's head on frozen towers."""
    modules = {stream: tower.module for stream, tower in towers.items()}
    widths = {stream: tower.width for stream, tower in towers.items()}
    levels = {stream: level_blocks(modules[stream], count) for stream, count in task.levels.items()}
    for stream, blocks in levels.items():
        for k, width in enumerate(level_widths(modules[stream], blocks)):
            widths[level_name(stream, k)] = width
    return hmmoe.MultimodalModel(
        modules, task.head(widths), folded=task.folded, groups=task.groups, levels=levels
    )

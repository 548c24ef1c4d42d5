"""A run's memory of its frozen prefix: filled before the clock starts, shared by the runs of a comparison."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch

from hmmoe.streams import PrefixCache

Report = Callable[[dict[str, Any]], None]


class Memory:
    """Context in which, if the recipe wants it, blocks before the first adapter run once per row.

    Args:
        parts: the run's parts, of `assemble`.
        folder: where runs of the same task and towers leave what they remember for each other; None keeps it
            in this process.
    """

    def __init__(self, parts: Any, folder: Path | None = None) -> None:
        self.cache = PrefixCache(parts.model) if parts.recipe.prefix_cache else None
        self.recipe, self.noise, self.folder = parts.recipe, dict(parts.noise), folder
        self.loaded = 0  # bytes that were known before this run

    def __enter__(self) -> "Memory":
        if self.cache is not None:
            self.cache.attach()
            file = self._file()
            if not self.cache.nbytes and file is not None and file.is_file():
                self.cache.load(file)
                self.loaded = self.cache.nbytes
        return self

    def __exit__(self, *error: object) -> None:
        if self.cache is None:
            return
        file = self._file()
        if file is not None and self.cache.nbytes > self.loaded:
            file.parent.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=file.parent, delete=False) as new:
                pass
            self.cache.save(new.name)
            os.replace(new.name, file)
            self.loaded = self.cache.nbytes
        self.cache.detach()

    def fill(self, trainer: Any, splits: Iterable[Any], report: Report) -> None:
        """Remember all rows of the splits. Draws nothing from the random number generators."""
        if self.cache is None:
            return
        for rows in splits:
            with torch.random.fork_rng():
                loader = trainer.get_eval_dataloader(rows)
                trainer.model.eval()
                for step, batch in enumerate(loader, 1):
                    if not self.cache.knows(batch["index"]):
                        with torch.no_grad(), trainer.compute_loss_context_manager():
                            trainer.model(**trainer._prepare_inputs({**batch, "labels": None}))
                    size = trainer.args.eval_batch_size
                    report({"phase": "remember", "step": step, "steps": len(loader), "rows": size})

    def _file(self) -> Path | None:
        """Named by all that what is remembered depends on."""
        if self.folder is None or self.cache is None:
            return None
        recipe = self.recipe
        depends = [recipe.task, recipe.encoders, recipe.train.precision, self.cache.blocks, self.noise]
        name = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]
        return self.folder / f"{name}.safetensors"

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
        self.loaded: dict[str, int] = {}  # stream -> bytes that were known before this run

    def __enter__(self) -> "Memory":
        if self.cache is not None:
            self.cache.attach()
            for stream, file in self._files().items():
                if not self.cache.nbytes_of(stream) and file.is_file():
                    self.cache.load(stream, file)
                    self.loaded[stream] = self.cache.nbytes_of(stream)
        return self

    def __exit__(self, *error: object) -> None:
        if self.cache is None:
            return
        for stream, file in self._files().items():
            known = self.cache.nbytes_of(stream)
            if known > self.loaded.get(stream, 0):
                file.parent.mkdir(parents=True, exist_ok=True)
                with NamedTemporaryFile(dir=file.parent, delete=False) as new:
                    pass
                self.cache.save(stream, new.name)
                os.replace(new.name, file)
                self.loaded[stream] = known
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
                    if not self.cache.knows(batch["index"], batch.get("present")):
                        with torch.no_grad(), trainer.compute_loss_context_manager():
                            trainer.model(**trainer._prepare_inputs({**batch, "labels": None}))
                    size = trainer.args.eval_batch_size
                    report({"phase": "remember", "step": step, "steps": len(loader), "rows": size})

    def _files(self) -> dict[str, Path]:
        """Stream -> a file named by all that what is remembered of it depends on."""
        if self.folder is None or self.cache is None:
            return {}
        recipe, found = self.recipe, {}
        for stream, blocks in self.cache.blocks.items():
            depends = [stream, recipe.task, recipe.train.precision, blocks, self.noise.get(stream)]
            depends += self._encoder(stream)
            name = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]
            found[stream] = self.folder / f"{name}.safetensors"
        return found

    def _encoder(self, stream: str) -> list[Any]:
        recipe = self.recipe
        tower = recipe.encoders.get(stream)
        if tower is None:  # of a model, in which streams may read each other
            return [recipe.encoders, recipe.leave_out]
        return [tower, recipe.encoders.get(tower.get("of"))]

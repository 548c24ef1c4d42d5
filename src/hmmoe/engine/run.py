"""A run's folder, such that a kill at any moment leaves it either resumable or finished, never in between.

runs/easy_vqa/
  recipe.yaml  environment.json          written aside and renamed into place with the folder
  checkpoints/checkpoint-120/complete    the marker comes last; a checkpoint without it does not count
  adapter_model.safetensors …            moved in when training and test are over
  metrics.json                           moved in last: its presence means that the run is finished
"""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from hmmoe.engine.recipe import Recipe
from hmmoe.files import read_own_json, write_json
from hmmoe.options import difference

MARKER = "complete"
PACKAGES = ("hmmoe", "torch", "transformers", "peft", "accelerate", "safetensors", "numpy")


class RunDir:
    """The folder of one run of `recipe`; see the module for its layout."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"

    def check(self, recipe: Recipe, resume: bool) -> None:
        """May `recipe` train here? Data that moved (`data_root`) makes no other recipe. Touches nothing.

        Raises:
            ValueError: the folder is no run's, is not to be resumed, or is of another recipe (says where).
        """
        if not self.path.exists():
            return
        if not (self.path / "recipe.yaml").is_file():
            raise ValueError(f"{str(self.path)!r} exists and is no run folder; choose another with --out")
        keys = difference(self.recipe().portable(), recipe.portable())
        if keys:
            raise ValueError(
                f"run folder {str(self.path)!r} belongs to another recipe (it differs in {', '.join(keys)}); "
                "choose another folder with --out (compare: --folder), or remove it"
            )
        if not resume:
            raise ValueError(
                f"run folder {str(self.path)!r} exists already; --resume it, or choose another by --out"
            )

    def create(self, recipe: Recipe) -> None:
        """Make the folder, whole or not at all; one that exists learns only where the data is now."""
        if self.path.exists() and self.recipe() == recipe:
            return
        with _aside(self.path) as new:
            (new / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
            if self.path.exists():
                os.replace(new / "recipe.yaml", self.path / "recipe.yaml")
                return
            write_json(new / "environment.json", environment())
            (new / "checkpoints").mkdir()
            os.replace(new, self.path)

    def recipe(self) -> Recipe:
        """The recipe of this run, as it was resolved."""
        file = self.path / "recipe.yaml"
        if not file.is_file():
            raise FileNotFoundError(f"{str(self.path)!r} is not a run folder: it has no recipe.yaml")
        return Recipe.load(file)

    def metrics(self) -> dict[str, Any] | None:
        """What the finished run measured; None while it is unfinished.

        Raises:
            ValueError: metrics.json is damaged.
        """
        file = self.path / "metrics.json"
        if not file.is_file():
            return None
        return read_own_json(file, "train the run again in a new folder")

    def finished_metrics(self) -> dict[str, Any]:
        """`metrics`, or an error that tells how to finish the run."""
        self.recipe()
        metrics = self.metrics()
        if metrics is None:
            raise ValueError(f"run {str(self.path)!r} is not finished; go on with `hmmoe train … --resume`")
        return metrics

    def newest_checkpoint(self) -> Path | None:
        """The newest whole checkpoint. Half-written ones are removed on the way."""
        whole = []
        for folder in self.checkpoints.glob("checkpoint-*"):
            if (folder / MARKER).is_file():
                whole.append(folder)
            else:
                shutil.rmtree(folder)
        return max(whole, key=_step, default=None)

    def keep(self, newest: int, best: int | None) -> None:
        """Mark the checkpoint of step `newest` as whole; remove all others but that of step `best`."""
        (self.checkpoint(newest) / MARKER).touch()
        for folder in self.checkpoints.glob("checkpoint-*"):
            if _step(folder) not in (newest, best):
                (folder / MARKER).unlink(missing_ok=True)
                shutil.rmtree(folder)

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"checkpoint-{step}"

    def finish(self, write: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """Let `write(folder)` put the results into a folder aside and return the metrics; then move all in.

        The checkpoints go: what they hold is in the results.
        """
        with _aside(self.path) as new:
            metrics = write(new)
            for file in sorted(new.iterdir()):
                os.replace(file, self.path / file.name)
            write_json(new / "metrics.json", metrics)
            os.replace(new / "metrics.json", self.path / "metrics.json")
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        return metrics


def environment() -> dict[str, Any]:
    """Versions and machine, for whoever wants to repeat a run."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {"python": sys.version.split()[0], "packages": versions, "machine": machine()}


def machine() -> str:
    """The processor and accelerator in words, e.g. `Linux x86_64, 2 cores`."""
    import torch  # here: a comparison leaves it to its workers until the end

    words = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    if torch.cuda.is_available():
        words += f", {torch.cuda.get_device_name(0)}"
    return words


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


class _aside:  # noqa: N801 (reads as a statement)
    """A temporary folder beside `path`, on the same file system, gone at the end whatever happens."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent)) / "new"
        self.folder.mkdir()

    def __enter__(self) -> Path:
        return self.folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder.parent, ignore_errors=True)

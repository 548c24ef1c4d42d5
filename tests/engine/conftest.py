"""A tiny recipe, ready to run, in a folder of its own."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import toy

from hmmoe.engine.recipe import Recipe


@pytest.fixture
def recipe() -> Callable[..., Recipe]:
    """A maker of toy recipes: `recipe(method=..., train=...)` replaces parts, train options one by one."""

    def make(**changes: Any) -> Recipe:
        tree = copy.deepcopy(toy.RECIPE)
        tree["train"] |= changes.pop("train", {})
        return Recipe.from_dict(tree | changes)

    return make

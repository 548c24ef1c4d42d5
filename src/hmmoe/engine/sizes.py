"""Can every method of a comparison be built? Asked before the first run, on the meta device."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from hmmoe.engine.assemble import assemble
from hmmoe.engine.recipe import Recipe
from hmmoe.methods import make_method


def check_sizes(trees: Mapping[str, dict[str, Any]]) -> None:
    """Build the method of each recipe once on the towers that they share, without weights.

    Args:
        trees: name -> recipe as a mapping.

    Raises:
        ValueError: a budget that cannot be met (says the smallest that can), or points that do not fit the
            towers; of all methods at once, each named.
    """
    recipes = {name: Recipe.from_dict(tree) for name, tree in trees.items()}
    plain = replace(next(iter(recipes.values())), method={"name": "frozen"}, leave_out=[])
    bare = without_weights(assemble(plain).model)
    wrong = []
    for name, recipe in recipes.items():
        try:
            with torch.device("meta"):
                make_method(recipe.method).build(copy.deepcopy(bare))
        except ValueError as error:
            wrong.append(f"{name}: {error}")
        except RuntimeError:  # it looks at values, which there are none of: its first run will tell
            continue
    if wrong:
        raise ValueError("; ".join(wrong))


def without_weights(model: nn.Module) -> nn.Module:
    """A copy on the meta device, in which weights that are shared stay shared (unlike `model.to("meta")`)."""
    memo: dict[int, Any] = {id(b): torch.empty_like(b, device="meta") for b in model.buffers()}
    for p in model.parameters():
        memo[id(p)] = nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad)
    return copy.deepcopy(model, memo)

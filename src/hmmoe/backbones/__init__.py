"""Frozen towers by name: registered ones, Hugging Face hub ids and local folders."""

import re
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

from hmmoe.backbones.hub import load_folder
from hmmoe.backbones.packaged import all_minilm_l6_v2, efficientnet_lite0
from hmmoe.backbones.tower import Tower
from hmmoe.backbones.words import WORDS, words
from hmmoe.errors import unknown

__all__ = ["TOWERS", "Tower", "load_tower"]

TOWERS: dict[str, Callable[..., Tower]] = {
    "efficientnet-lite0": efficientnet_lite0,
    "all-minilm-l6-v2": all_minilm_l6_v2,
    WORDS: words,
}


def load_tower(name: str, **options: Any) -> Tower:
    """The frozen tower of that name.

    Args:
        name: a name in `TOWERS`, a folder in Hugging Face format, or a hub id "owner/model".
        options: of the builder in `TOWERS`, or for the other two `part`, `image_size`, `seconds`,
            `max_length` (see `hmmoe.backbones.hub.load_folder`).

    Raises:
        ValueError: no such tower or option, or weights that do not load.
        FileNotFoundError: the folder does not exist or lacks its config or weights.
    """
    build: Callable[..., Tower]
    args: tuple[Any, ...]
    if name in TOWERS:
        build, args = TOWERS[name], ()
    elif Path(name).expanduser().is_dir():
        build, args = load_folder, (Path(name).expanduser(),)
    elif re.fullmatch(r"[\w.-]*\w[\w.-]*/[\w.-]*\w[\w.-]*", name) and not name.startswith("."):
        build, args = load_folder, (name,)
    elif "/" in name or "\\" in name:
        raise FileNotFoundError(f"tower {name!r} looks like a folder, but there is none there")
    else:
        raise ValueError(unknown("tower", name, TOWERS) + ", or a folder, or a hub id owner/model")
    allowed = [k for k in signature(build).parameters if k != "name"]
    for option in options:
        if option not in allowed:
            raise ValueError(unknown(f"option of tower {name!r}", option, allowed))
    return build(*args, **options)

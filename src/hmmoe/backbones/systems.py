"""Systems by name: models that read several streams themselves, in place of towers side by side.

    model: {name: vlmo, path: vlmo_base_patch16_480_vqa.pt, size: base, image_size: 480}
    model: {name: valor, path: VALOR-large}

A recipe has `model` or `towers`. The streams are the task's own, matched by modality: VLMo reads one text and
one or two images (`vlmo.system`), VALOR video, audio and text (`valor.system`). To the rest of the engine a
system is a `Tower` per stream, all with the same module, and a container in place of `MultimodalModel`;
methods treat it alike. The task finds the system as `task.system`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from typing import Any

from hmmoe.backbones.tower import Tower
from hmmoe.container import FrozenTowers
from hmmoe.errors import unknown

SYSTEMS = {"vlmo": "hmmoe.backbones.vlmo.system", "valor": "hmmoe.backbones.valor.system"}


@dataclass
class System:
    """A frozen model of several streams.

    Attributes:
        towers: stream -> its preprocessing, modality and width; the module is the whole model.
        container: task -> the model with the head for that task, called as `MultimodalModel` is.
        tokenizer: of its text streams.
        matching: builds the head with which the model itself compares text and media, for `head: own` of a
            retrieval task; its `similarity(text, media)` makes a table (Q, G) of what it returns.
    """

    towers: dict[str, Tower]
    container: Callable[[Any], FrozenTowers]
    tokenizer: Any
    matching: Callable[[], Any] | None = None


def load_system(name: str, streams: Mapping[str, str], **options: Any) -> System:
    """The system of that name.

    Args:
        name: a name in `SYSTEMS`.
        streams: stream -> modality, those of the task.
        options: of the system's `load`.

    Raises:
        ValueError: no such system or option, streams it does not read, or weights that do not load.
    """
    if name not in SYSTEMS:
        raise ValueError(unknown("model", name, SYSTEMS))
    load = import_module(SYSTEMS[name]).load
    allowed = [k for k in signature(load).parameters if k != "streams"]
    for option in options:
        if option not in allowed:
            raise ValueError(unknown(f"option of model {name!r}", option, allowed))
    return load(streams, **options)

"""From a checkpoint of the VLMo authors to the state dict of our model, with every key accounted for.

Our names are the official ones less the `transformer.` prefix (and with `vlmo.` before them in a model with a
head), so all the work is in the wrappers, in positions that follow the image size, and in refusing what does
not fit."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from .configuration import PRESETS, VlmoConfig
from .positions import resize_bias_table, resize_position_embedding

log = logging.getLogger(__name__)

WRAPPERS = ("state_dict", "module", "model")  # Lightning, DeepSpeed, plain; looked for in the official order
ENCODER = ("transformer.", "relative_position_bias_table")  # a key left over here means another model
# Absent, all of it, before the stage that trains it: text-only pre-training has no vision-language expert.
TRAINED_LATER = ("vqa_classifier.", "nlvr2_classifier.", ".mlp_vl.", ".norm2_vl.")


@dataclass(frozen=True)
class Conversion:
    """What came of a checkpoint. All keys are official names, in their order.

    Attributes:
        state_dict: Weights under our names.
        unused: Keys of the checkpoint that the model has no place for (other heads, index buffers).
        missing: Keys of the model that the checkpoint lacks; these keep their random weights.
        changed: Keys whose size was changed to that of the model.
    """

    state_dict: dict[str, Tensor]
    unused: tuple[str, ...]
    missing: tuple[str, ...]
    changed: tuple[str, ...]

    def log(self) -> None:
        """Reports the keys: missing ones as a warning, since their weights are random."""
        if self.missing:
            log.warning("not in the VLMo checkpoint, left random: %s", ", ".join(self.missing))
        if self.unused:
            log.info("in the VLMo checkpoint but not in the model: %s", ", ".join(self.unused))
        if self.changed:
            log.info("resized from the VLMo checkpoint: %s", ", ".join(self.changed))


def read_checkpoint(source: str | PathLike[str] | Mapping[str, Any]) -> dict[str, Any]:
    """The bare official state dict, from a file or from what a file holds.

    Args:
        source: Path, or a loaded checkpoint, bare or under "state_dict", "module" or "model". A `module.`
            before every key is taken off.

    Raises:
        ValueError: If the file holds objects other than tensors and plain values, or no dictionary.
    """
    content = source if isinstance(source, Mapping) else _load(Path(source))
    for wrapper in WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _load(path: Path) -> Mapping[str, Any]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} is not a plain checkpoint: it is damaged or holds objects beside tensors; "
            "save its state dict alone"
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict")
    return content


def official_name(name: str) -> str:
    """The official name of one of our parameters."""
    name = name.removeprefix("vlmo.")
    inner = name.split(".")[0] in ("cls_token", "pos_embed", "patch_embed", "blocks", "norm")
    return f"transformer.{name}" if inner else name


def convert(official: Mapping[str, Any], model: Mapping[str, Tensor], config: VlmoConfig) -> Conversion:
    """Fits an official state dict to a model.

    Args:
        official: Bare official state dict.
        model: State dict of our model, for its names and shapes.
        config: Configuration of that model.

    Raises:
        ValueError: If an encoder key is missing, left over, or of another shape; names the first such key.
    """
    weights: dict[str, Tensor] = {}
    missing, changed = [], []
    not_yet_trained = [part for part in TRAINED_LATER if not any(part in key for key in official)]
    for name, own in model.items():
        key = official_name(name)
        value = official.get(key)
        if not isinstance(value, Tensor):
            if not any(part in key for part in not_yet_trained):
                raise ValueError(_refusal(f"has no {key!r}", official, config))
            missing.append(key)
            continue
        try:
            fitted = RESIZE.get(key, lambda value, config: value)(value, config)
        except ValueError as error:
            raise ValueError(_refusal(f"does not fit at {key!r}: {error}", official, config)) from error
        if fitted.shape != own.shape:
            shapes = f"{tuple(value.shape)}, not {tuple(own.shape)}"
            raise ValueError(_refusal(f"differs first at {key!r}: {shapes}", official, config))
        if fitted.shape != value.shape:
            changed.append(key)
        weights[name] = fitted
    used = {official_name(name) for name in model}
    unused = [key for key in official if key not in used]
    for key in unused:
        if key.startswith(ENCODER):
            raise ValueError(_refusal(f"has {key!r}, for which the model has no place", official, config))
    return Conversion(weights, tuple(unused), tuple(missing), tuple(changed))


def _refusal(what: str, official: Mapping[str, Any], config: VlmoConfig) -> str:
    wanted = f"{config.hidden_size} wide, {config.num_hidden_layers} blocks"
    return f"the checkpoint {what}; the configuration is {wanted}, the checkpoint {_looks_like(official)}"


def _looks_like(official: Mapping[str, Any]) -> str:
    """What to use instead, guessed from the keys."""
    cls = official.get("transformer.cls_token")
    if not isinstance(cls, Tensor):
        return f"is not one of VLMo (its first key is {next(iter(official), None)!r})"
    width = cls.shape[-1]
    blocks = [key.split(".")[2] for key in official if key.startswith("transformer.blocks.")]
    depth = len(set(blocks))
    for name, preset in PRESETS.items():
        if (preset["hidden_size"], preset["num_hidden_layers"]) == (width, depth):
            return f"looks like VlmoConfig.preset({name!r})"
    return f"is {width} wide, {depth} blocks"


def _token_types(value: Tensor, config: VlmoConfig) -> Tensor:
    """NLVR2 starts its second image as a copy of the first."""
    if len(value) == 2 and config.num_token_types == 3:
        return torch.cat([value, value[1:]])
    if len(value) == 3 and config.num_token_types == 2:
        raise ValueError("it was fine-tuned on NLVR2, set num_token_types=3")
    return value


RESIZE: dict[str, Callable[[Tensor, VlmoConfig], Tensor]] = {
    "relative_position_bias_table": lambda value, config: resize_bias_table(value, config.grid),
    "transformer.pos_embed": lambda value, config: resize_position_embedding(value, config.grid),
    # Pre-trained on longer texts: the places beyond are not needed.
    "text_embeddings.position_embeddings.weight": lambda value, config: value[: config.max_text_length],
    "token_type_embeddings.weight": _token_types,
}

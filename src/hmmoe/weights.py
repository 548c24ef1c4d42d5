"""Reading safetensors files: whole or refused, and into a model only what was saved from one like it."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor


def check_safetensors(file: Path) -> None:
    """Look at the file's header.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is cut short or of another format.
    """
    if not file.is_file():
        raise FileNotFoundError(f"the weights {file} do not exist")
    try:
        with safe_open(str(file), framework="pt") as opened:
            opened.keys()
    except SafetensorError as error:
        raise ValueError(f"{file} is cut short or no safetensors file ({error})") from error


def load_into(state: Mapping[str, Tensor], file: Path, what: str) -> None:
    """Copy a file's tensors into those of `state`, which must have their names and shapes.

    Args:
        what: whose weights these are, for the error.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is cut short, no safetensors, or of another model (says what differs first).
    """
    check_safetensors(file)
    saved = load_file(str(file))
    for name in sorted(saved.keys() | state.keys()):
        there, here = (tuple(x[name].shape) if name in x else "missing" for x in (saved, state))
        if there != here:
            raise ValueError(
                f"{file} holds the weights of another {what}: {name} is {there} there and {here} in this "
                "model; load it into the towers and options that it was made with"
            )
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(saved[name])

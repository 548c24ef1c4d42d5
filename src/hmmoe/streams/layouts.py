"""The border between a block's own layout and the layer's `(B, N, D)`: the one place that knows of both.

    (B, N, D)       as it is
    (B, ..., D)     tokens of any arrangement, e.g. (B, H, W, D) or windows (B, U, S, D)
    (B, D, H, W)    convolutional
    (x, ...)        a tuple or list whose first item is one of the above

and of what a block is told about padding.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

# How blocks call the padding mask; those of torch.nn mark padding instead of tokens.
_MASKS = ("attention_mask", "attn_mask", "mask", "padding_mask")
_INVERSE = ("src_key_padding_mask", "key_padding_mask")


def main_tensor(output: Any) -> Tensor:
    """The states in what a block or tower returns.

    Raises:
        TypeError: there is no tensor where states should be.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        found = output.get("last_hidden_state", next(iter(output.values()), None))
    else:
        found = output[0] if isinstance(output, Sequence) and output else None
    if not isinstance(found, Tensor):
        raise TypeError(f"expected a tensor or a tuple that starts with one, got {type(output).__name__}")
    return found


def replace_main(output: Any, states: Tensor) -> Any:
    """`output` with other states in the place of its own."""
    if isinstance(output, Tensor):
        return states
    if isinstance(output, Mapping):
        key = "last_hidden_state" if "last_hidden_state" in output else next(iter(output))
        changed = dict(output)
        changed[key] = states
        return type(output)(**changed)
    rest = list(output[1:])
    if hasattr(output, "_fields"):
        return type(output)(states, *rest)
    return type(output)([states, *rest])


def channels_first(x: Tensor, width: int | None, convolutional: bool = False) -> bool:
    """Is `x` laid out as (B, D, ...)? Where both ends fit, convolutional blocks decide.

    Raises:
        ValueError: no axis is `width` wide.
    """
    if x.dim() < 3:
        return False
    if width is None:
        return convolutional and x.dim() > 3
    first, last = x.shape[1] == width, x.shape[-1] == width
    if not (first or last):
        raise ValueError(
            f"states are {tuple(x.shape)}, of which no axis is {width} wide; give the right widths"
        )
    return first and (not last or (convolutional and x.dim() > 3))


def to_tokens(x: Tensor, width: int | None = None, convolutional: bool = False) -> Tensor:
    """States in any layout -> `(B, N, D)`.

    Args:
        x: `(B, D)`, `(B, N, D)`, `(B, ..., D)` or `(B, D, ...)`.
        width: D; None trusts `convolutional`.
        convolutional: take (B, D, ...) where the shape leaves it open.
    """
    if x.dim() == 2:
        return x[:, None]
    if channels_first(x, width, convolutional):
        return x.flatten(2).transpose(1, 2)
    return x.flatten(1, -2)


def add_update(x: Tensor, update: Tensor, width: int, convolutional: bool = False) -> Tensor:
    """States in their own layout, plus an update `(B, N, D)`."""
    if channels_first(x, width, convolutional):
        update = update.transpose(1, 2)
    return x + update.reshape(x.shape)


def is_convolutional(block: nn.Module) -> bool:
    """Does the block hold 2-D or 3-D convolutions over its whole input (and so work channels first)?"""
    return any(isinstance(m, nn.Conv2d | nn.Conv3d) for m in block.modules())


def told_mask(block: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Tensor, bool] | None:
    """The mask among a block's inputs and whether it marks padding instead of tokens; None without one."""
    names = _positional(type(block).forward)
    told = {**dict(zip(names, args, strict=False)), **kwargs}
    for name in (*_MASKS, *_INVERSE):
        if isinstance(told.get(name), Tensor):
            return told[name], name in _INVERSE
    return None


@cache
def _positional(forward: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(forward).parameters)[1:]


def real_tokens(mask: Tensor, inverse: bool = False) -> Tensor:
    """Any attention mask -> bool `(B, N)` or `(1, N)`, True for real tokens.

    A key is real if any query may attend to it, which also reads causal and sliding-window masks rightly.

    Args:
        mask: `(B, N)` of bool, whole numbers or 0/1; or `(B, Q, N)`, `(B, heads, Q, N)`, bool (True attends)
            or additive.
        inverse: a bool mask marks padding.
    """
    if mask.dim() not in (2, 3, 4):
        raise ValueError(f"an attention mask has 2, 3 or 4 axes, got {tuple(mask.shape)}")
    if mask.dim() > 2 and mask.stride(-2) == 0:  # expanded over queries
        mask = mask[..., :1, :]
    real = _attended(mask)
    real = ~real if inverse and mask.dtype == torch.bool else real
    if real.dim() == 2:
        return real
    return real.flatten(1, -2).any(1)  # (B, N)


def leading_tokens(mask: Tensor) -> Tensor:
    """The tokens that every query may attend to, bool `(B, N)`: a prompt before a causal text, or its first
    token.

    Args:
        mask: `(B, Q, N)` or `(B, heads, Q, N)`, bool (True attends) or additive.

    Raises:
        ValueError: the mask does not tell one query from another.
    """
    if mask.dim() not in (3, 4):
        raise ValueError(f"a causal stream's mask must be (B, heads, Q, N), got {tuple(mask.shape)}")
    return _attended(mask).flatten(1, -2).all(1)


def _attended(mask: Tensor) -> Tensor:
    """Where a mask of any kind lets attention pass, bool of the same shape."""
    if mask.dtype == torch.bool:
        return mask
    if mask.is_floating_point() and mask.dim() > 2:
        return mask > -9e3  # additive: some write -inf, some the least number, some -1e4
    return mask > 0

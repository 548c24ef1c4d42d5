"""The elementwise steps of a layer, with backwards of their own: long streams cost few passes over memory.

    spread    z -> itself, its pieces for the kinds of token experts, and its mean over real tokens
    mix       phi(z) * scale + [shift,  y_1 * scale_1,  y_2 * scale_2, ...]          phi = SiLU

Autograd's own operators would go back through a concatenation and a sum for `spread`, and through five
temporaries of the size of z for `mix`; here it is one buffer and two. Tested equal to the plain forms,
gradients included.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def spread(z: Tensor, mask: Tensor | None, pieces: Sequence[int]) -> tuple[tuple[Tensor, ...], Tensor]:
    """What the experts and the router read of a stream.

    Args:
        z: `(B, N, W)` low-rank states.
        mask: `(B, N)` bool, True for real tokens, or None when all are.
        pieces: widths of the last channels' pieces, together W at most.

    Returns:
        z and the pieces, `(B, N, k_i)` each, and the mean over real tokens, `(B, W)`, zero without any.
    """
    *parts, mean = _Spread.apply(z, mask, tuple(pieces))
    return tuple(parts), mean


def last_pieces(z: Tensor, pieces: Sequence[int]) -> tuple[Tensor, ...]:
    """Views of the last channels of `(..., W)`, `(..., k_i)` each."""
    return z.split([z.shape[-1] - sum(pieces), *pieces], -1)[1:]


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, mask: Tensor | None, pieces: tuple[int, ...]) -> tuple[Tensor, ...]:
        share = None if mask is None else mask.to(z.dtype) / mask.sum(-1, keepdim=True).clamp(min=1)  # (B, N)
        ctx.save_for_backward(share)
        return z.view_as(z), *last_pieces(z, pieces), masked_mean(z, mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (share,) = ctx.saved_tensors
        whole, *parts, mean = grads
        if share is None:
            dz = torch.add(whole, mean[:, None], alpha=1 / whole.shape[1])
        else:
            dz = torch.addcmul(whole, share[..., None], mean[:, None])
        for out, part in zip(last_pieces(dz, [part.shape[-1] for part in parts]), parts, strict=True):
            out += part
        return dz, None, None


def masked_mean(z: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over real tokens, `(B, N, W)` -> `(B, W)`; zero where there is none."""
    if mask is None:
        return z.sum(1) / z.shape[1]
    real = mask[..., None].to(z.dtype)
    return (z * real).sum(1) / real.sum(1).clamp(min=1)


def mix(z: Tensor, scale: Tensor, shift: Tensor | None, ys: list[Tensor]) -> Tensor:
    """Outputs of all experts, gated, side by side.

    Args:
        z: `(B, N, W)` low-rank states.
        scale: `(B, W)`, or `(B, N, W)` when routed per token; gate included.
        shift: of the channel experts, which come first, `(B, k)` or `(B, N, k)`; None without any.
        ys: what the token experts add to their phi(z), `(B, N, k_i)` each.

    Returns:
        `(B, N, W)`.
    """
    return _Mix.apply(z, scale, shift, *ys)


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, scale: Tensor, shift: Tensor | None, *ys: Tensor) -> Tensor:
        silu = F.silu(z)  # kept: its exponential costs more than all else here
        widths, by_token, out = [y.shape[-1] for y in ys], _by_token(scale), torch.empty_like(z)
        if shift is not None:
            k = shift.shape[-1]
            torch.addcmul(_by_token(shift), silu[..., :k], by_token[..., :k], out=out[..., :k])
        tokens = zip(*(last_pieces(t, widths) for t in (out, silu, by_token)), ys, strict=True)
        for part, x, s, y in tokens:
            torch.add(x, y, out=part).mul_(s)
        ctx.save_for_backward(z, silu, scale, *ys)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, silu, scale, *ys = ctx.saved_tensors
        widths = [y.shape[-1] for y in ys]
        k = z.shape[-1] - sum(widths)  # channels of the channel experts
        along = silu * grad
        for part, y, d in zip(last_pieces(along, widths), ys, last_pieces(grad, widths), strict=True):
            part.addcmul_(y, d)
        dshift = _like(grad[..., :k], scale) if k else None
        dscale = _like(along, scale)
        # its memory is used again, unless it is the answer
        scaled = torch.mul(grad, _by_token(scale), out=None if dscale is along else along)
        dz = torch.ops.aten.silu_backward(scaled, z)
        return dz, dscale, dshift, *last_pieces(scaled, widths)


def _by_token(x: Tensor) -> Tensor:
    """`(B, k)` as `(B, 1, k)`; what has tokens stays."""
    return x if x.dim() == 3 else x[:, None]


def _like(grad: Tensor, target: Tensor) -> Tensor:
    """The gradient of a tensor that was the same for all tokens, or was not."""
    return grad if target.dim() == 3 else grad.sum(1)

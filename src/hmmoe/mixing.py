"""The elementwise steps of a layer, with backwards of their own: long streams cost few passes over memory.

    spread    z -> its pieces for the kinds of experts, and its mean over real tokens
    mix       [phi(z) * scale + shift,  y_1 * g_1,  y_2 * g_2, ...]          phi = SiLU

Autograd's own operators would go back through a concatenation and a sum for `spread`, and through five
temporaries of the size of z for `mix`; here it is one buffer and three. Tested equal to the plain forms,
gradients included.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def spread(z: Tensor, mask: Tensor | None, pieces: Sequence[int]) -> tuple[tuple[Tensor, ...], Tensor]:
    """What the experts and the router read of a stream.

    Args:
        z: `(B, N, W)` low-rank states.
        mask: `(B, N)` bool, True for real tokens, or None when all are.
        pieces: widths of the pieces, together W.

    Returns:
        the pieces, `(B, N, k_i)` each, and the mean over real tokens, `(B, W)`, zero where there is none.
    """
    *parts, mean = _Spread.apply(z, mask, tuple(pieces))
    return tuple(parts), mean


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, mask: Tensor | None, pieces: tuple[int, ...]) -> tuple[Tensor, ...]:
        share = None if mask is None else mask.to(z.dtype) / mask.sum(-1, keepdim=True).clamp(min=1)  # (B, N)
        ctx.save_for_backward(share)
        return *z.split(pieces, -1), masked_mean(z, mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (share,) = ctx.saved_tensors
        *parts, mean = grads
        dz = mean.new_empty(*parts[0].shape[:-1], mean.shape[-1])
        widths = [part.shape[-1] for part in parts]
        one = mean[:, None] / dz.shape[1] if share is None else mean[:, None]
        for out, part, m in zip(dz.split(widths, -1), parts, one.split(widths, -1), strict=True):
            if share is None:
                torch.add(part, m, out=out)
            else:
                torch.addcmul(part, share[..., None], m, out=out)
        return dz, None, None


def masked_mean(z: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over real tokens, `(B, N, W)` -> `(B, W)`; zero where there is none."""
    if mask is None:
        return z.sum(1) / z.shape[1]
    real = mask[..., None].to(z.dtype)
    return (z * real).sum(1) / real.sum(1).clamp(min=1)


def mix(
    z: Tensor | None, scale: Tensor | None, shift: Tensor | None, ys: list[Tensor], gates: list[Tensor]
) -> Tensor:
    """Outputs of all experts, gated, side by side.

    Args:
        z: `(B, N, k)` low-rank states of the channel experts, None without any.
        scale, shift: `(B, 1, k)`, or `(B, N, k)` when routed per token; gate included.
        ys: outputs of the token experts, `(B, N, k_i)` each.
        gates: their gates, `(B, 1, k_i)` or `(B, N, k_i)`.

    Returns:
        `(B, N, W)`.
    """
    return _Mix.apply(z, scale, shift, *ys, *gates)


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z: Tensor | None, scale: Tensor | None, shift: Tensor | None, *rest: Tensor
    ) -> Tensor:
        ys, gates = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        first = z if z is not None else ys[0]
        widths = [t.shape[-1] for t in (z, *ys) if t is not None]
        out = first.new_empty(*first.shape[:-1], sum(widths))
        parts = list(out.split(widths, -1))
        sigmoid = None
        if z is not None and scale is not None and shift is not None:
            sigmoid = z.sigmoid()  # kept: its exponential costs more than all else here
            torch.addcmul(shift, z * sigmoid, scale, out=parts.pop(0))
        for part, y, g in zip(parts, ys, gates, strict=True):
            torch.mul(y, g, out=part)
        ctx.save_for_backward(z, sigmoid, scale, *rest)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, sigmoid, scale, *rest = ctx.saved_tensors
        ys, gates = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        parts = list(grad.split([t.shape[-1] for t in (z, *ys) if t is not None], -1))
        dz = dscale = dshift = None
        if z is not None:
            d = parts.pop(0)
            silu = z * sigmoid
            buffer = silu * d
            dscale, dshift = _like(buffer, scale), _like(d, scale)
            torch.sub(1, sigmoid, out=buffer)  # phi' = sigmoid + phi (1 - sigmoid)
            dz = torch.addcmul(sigmoid, silu, buffer, out=silu).mul_(d).mul_(scale)
        dys = [d * g for d, g in zip(parts, gates, strict=True)]
        dgates = [_like(d * y, g) for d, y, g in zip(parts, ys, gates, strict=True)]
        return dz, dscale, dshift, *dys, *dgates


def _like(grad: Tensor, target: Tensor) -> Tensor:
    """The gradient of a tensor that was broadcast along the tokens."""
    return grad.sum(1, keepdim=True) if target.shape[1] == 1 else grad.clone()

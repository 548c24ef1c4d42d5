"""The one elementwise step of a layer, with its own backward: long streams cost few passes over memory.

    [phi(z) * scale + shift,  y_1 * g_1,  y_2 * g_2, ...]          phi = SiLU

Written with autograd's own operators this makes five temporaries of the size of z; here it is the result
going forward and two going back. Tested equal to the plain form, gradients included.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


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
        if z is not None and scale is not None and shift is not None:
            torch.addcmul(shift, F.silu(z), scale, out=parts.pop(0))
        for part, y, g in zip(parts, ys, gates, strict=True):
            torch.mul(y, g, out=part)
        ctx.save_for_backward(z, scale, shift, *rest)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, scale, shift, *rest = ctx.saved_tensors
        ys, gates = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        parts = list(grad.split([t.shape[-1] for t in (z, *ys) if t is not None], -1))
        dz = dscale = dshift = None
        if z is not None:
            d = parts.pop(0)
            buffer = F.silu(z)
            dscale, dshift = _like(buffer.mul_(d), scale), _like(d, shift)
            torch.mul(d, scale, out=buffer)
            dz = torch.ops.aten.silu_backward(buffer, z)
        dys = [d * g for d, g in zip(parts, gates, strict=True)]
        dgates = [_like(d * y, g) for d, y, g in zip(parts, ys, gates, strict=True)]
        return dz, dscale, dshift, *dys, *dgates


def _like(grad: Tensor, target: Tensor) -> Tensor:
    """The gradient of a tensor that was broadcast along the tokens."""
    return grad.sum(1, keepdim=True) if target.shape[1] == 1 else grad.clone()

"""The way down: from a frozen tower's channels to rank space, standardised.

    Z = ((X - mu) / sigma) D            mu, sigma: mean and standard deviation of each channel of X

Frozen towers have channels that are orders of magnitude larger than the rest and means that dwarf what
differs between samples; a pooled state would tell little else. mu and sigma are measured once, on the first
training batch, over real tokens and all processes, and are constants from then on (ours; batch norm with its
statistics fixed, as for a data-dependent initialisation). They are folded into D, so they cost nothing per
token.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class _Standardised(torch.autograd.Function):
    """`((x - mean) * scale) @ weight.T`, the constants folded into the weight both ways, in place on the way
    back.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        folded = weight * scale  # (W, d)
        bias = (folded @ mean).neg_().to(x.dtype)
        folded = folded.to(x.dtype)
        ctx.save_for_backward(x, folded, mean, scale)
        return F.linear(x, folded, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        x, folded, mean, scale = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        dweight = (rows.mT @ x.flatten(0, -2)).to(scale.dtype)
        dweight.addr_(rows.sum(0, dtype=scale.dtype), mean, alpha=-1).mul_(scale)
        return grad @ folded if ctx.needs_input_grad[0] else None, dweight, None, None


class Down(nn.Linear):
    """One stream's product d -> W.

    Buffers (saved with the adapter): `mean` and `scale` = 1 / sigma, each `(d,)`, and `count`, the number of
    tokens they were measured on, 0 before.
    """

    mean: Tensor
    scale: Tensor
    count: Tensor

    def __init__(self, width: int, rank_width: int) -> None:
        super().__init__(width, rank_width, bias=False)
        nn.init.normal_(self.weight, std=width**-0.5)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, N, d)` -> `(B, N, W)`."""
        low = torch.is_autocast_enabled(x.device.type)
        x = x.to(torch.get_autocast_dtype(x.device.type) if low else self.weight.dtype)
        with torch.autocast(x.device.type, enabled=False):
            return _Standardised.apply(x, self.weight, self.mean, self.scale)

    def set(self, count: Tensor, total: Tensor, squares: Tensor) -> None:
        """Take the statistics from sums over tokens: their number `()`, and `(d,)` of x and of x squared."""
        mean = total / count
        sigma = (squares / count - mean.square()).clamp(min=0).sqrt()
        self.mean.copy_(mean)
        # a channel that hardly varies stays small
        self.scale.copy_(1 / (sigma + 0.1 * sigma.median() + 1e-6))
        self.count.copy_(count)


@torch.no_grad()
def standardise(downs: Mapping[str, Down], states: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> bool:
    """Measure the streams that have not been yet, on this batch of all processes together.

    Args:
        downs: stream -> `Down`.
        states: stream -> `(B, N, d)`.
        masks: stream -> `(B, N)` bool.

    Returns:
        True when every stream has been measured.
    """
    sums = []
    for m, down in downs.items():
        d = down.in_features
        if m not in states:
            sums.append(torch.zeros(1 + 2 * d, dtype=torch.float64, device=down.weight.device))
            continue
        x = states[m].flatten(0, 1).double()
        x = x[masks[m].flatten()] if m in masks else x
        sums.append(torch.cat([x.new_full((1,), len(x)), x.sum(0), x.square().sum(0)]))
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        joined = torch.cat(sums)  # one call, whatever streams this process has
        dist.all_reduce(joined)
        sums = list(joined.split([len(s) for s in sums]))
    for down, s in zip(downs.values(), sums, strict=True):
        if down.count == 0 and s[0] > 0:
            down.set(s[0], s[1 : 1 + down.in_features], s[1 + down.in_features :])
    return all(bool(down.count > 0) for down in downs.values())

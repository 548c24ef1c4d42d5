"""Affine experts: scale and shift in rank space.

    uni-modal      Y = phi(Z_m) * gamma + beta                      gamma, beta learned vectors
    conditioned    Y = phi(Z_m) * gamma(c) + beta(c)                c = pooled low-rank states of the other streams

Source: the paper (arXiv 2503.20633) changes the affine linear expert so that fusion happens in the low-rank space; that
the other streams act through scale and shift (as in FiLM, arXiv 1709.07871) is our choice.
"""

import torch
from torch import Tensor, nn

from hmmoe.experts.base import ChannelExperts


class Affine(ChannelExperts):
    """The uni-modal kind: what the router falls back on when fusing does not help."""

    reads_others = False

    def __init__(self, count: int, rank: int, others: int) -> None:
        super().__init__(count, rank, others)
        self.scale = nn.Parameter(torch.ones(count, rank))
        self.shift = nn.Parameter(torch.zeros(count, rank))

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.scale, self.shift


class ConditionedAffine(ChannelExperts):
    """Scale and shift are affine functions of the other streams, starting at 1 and near 0."""

    def __init__(self, count: int, rank: int, others: int) -> None:
        super().__init__(count, rank, others)
        self.weight = nn.Parameter(torch.empty(count, others * rank, 2 * rank))
        self.bias = nn.Parameter(torch.zeros(count, 2 * rank))
        nn.init.normal_(self.weight, std=(others * rank) ** -0.5)

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor | None]:
        film = torch.einsum("bnc,nco->bno", context, self.weight) + self.bias  # (B, n, 2r)
        scale, shift = film.chunk(2, -1)
        return 1 + scale, shift

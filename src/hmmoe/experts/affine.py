"""Affine experts: scale and shift in rank space.

    uni-modal      Y = phi(Z_m) * gamma + beta                gamma, beta learned vectors
    conditioned    Y = phi(Z_m) * (1 + gamma(c)) + beta(c)    [gamma, beta] = W_2 relu(W_1 c + b_1) + b_2

with c the pooled low-rank states of the other streams.

Source: the paper (arXiv 2503.20633) changes the affine linear expert so that fusion happens in the low-rank
space; that the other streams act through scale and shift (as in FiLM, arXiv 1709.07871), by a network of
hidden width r, is our choice.
"""

import torch
from torch import Tensor, nn

from hmmoe.experts.base import ChannelExperts


class Affine(ChannelExperts):
    """The uni-modal kind: what the router falls back on when fusing does not help."""

    reads_others = False

    def __init__(self, count: int, rank: int, context: int) -> None:
        super().__init__(count, rank, context)
        self.scale = nn.Parameter(torch.ones(count * rank))
        self.shift = nn.Parameter(torch.zeros(count * rank))

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.scale, self.shift


class ConditionedAffine(ChannelExperts):
    """Scale and shift that the other streams decide on, starting near 1 and 0."""

    def __init__(self, count: int, rank: int, context: int) -> None:
        super().__init__(count, rank, context)
        self.hidden = nn.Linear(context, rank)
        self.film = nn.Linear(rank, 2 * count * rank)
        nn.init.kaiming_normal_(self.hidden.weight)
        nn.init.zeros_(self.hidden.bias)
        # small: where the streams have nothing to tell each other, what others say is noise at first
        nn.init.normal_(self.film.weight, std=0.1 * rank**-0.5)
        nn.init.zeros_(self.film.bias)

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor | None]:
        scale, shift = self.film(self.hidden(context).relu()).chunk(2, -1)  # (B, n*r) each
        return 1 + scale, shift

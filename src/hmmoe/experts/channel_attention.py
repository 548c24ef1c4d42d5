"""Channel-attention experts: the other streams gate the channels of this one.

    Y = phi(Z_m) * 2 sigmoid(W_2 relu(W_1 c))          c = pooled low-rank states of the other streams

Source: the paper (arXiv 2503.20633) names the family, the squeeze-and-excite form (arXiv 1709.01507) is our choice; the
factor 2 makes the gate start at 1 instead of 1/2.
"""

import torch
from torch import Tensor, nn

from hmmoe.experts.base import ChannelExperts


class ChannelAttention(ChannelExperts):
    """A two-layer gate per expert, hidden width r."""

    def __init__(self, count: int, rank: int, others: int) -> None:
        super().__init__(count, rank, others)
        self.squeeze = nn.Parameter(torch.empty(count, others * rank, rank))
        self.excite = nn.Parameter(torch.empty(count, rank, rank))
        nn.init.normal_(self.squeeze, std=(2 / (others * rank)) ** 0.5)
        nn.init.normal_(self.excite, std=rank**-0.5)

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor | None]:
        hidden = torch.einsum("bnc,nch->bnh", context, self.squeeze).relu()
        return 2 * torch.einsum("bnh,nhr->bnr", hidden, self.excite).sigmoid(), None

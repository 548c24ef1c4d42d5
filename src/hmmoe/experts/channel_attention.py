"""Channel-attention experts: the other streams gate the channels of this one.

    Y = phi(Z_m) * 2 sigmoid(W_2 relu(W_1 c + b_1) + b_2)

with c the pooled low-rank states of the other streams.

Source: the paper (arXiv 2503.20633) names the family, the squeeze-and-excite form (arXiv 1709.01507) with
hidden width r is our choice; the factor 2 makes the gate start near 1 instead of 1/2.
"""

from torch import Tensor, nn

from hmmoe.experts.base import ChannelExperts


class ChannelAttention(ChannelExperts):
    """A two-layer gate over the channels of all experts of the group."""

    def __init__(self, count: int, rank: int, context: int) -> None:
        super().__init__(count, rank, context)
        self.squeeze = nn.Linear(context, rank)
        self.excite = nn.Linear(rank, count * rank)
        nn.init.kaiming_normal_(self.squeeze.weight)
        nn.init.zeros_(self.squeeze.bias)
        nn.init.normal_(self.excite.weight, std=0.1 * rank**-0.5)  # small, as of the conditioned affine kind
        nn.init.zeros_(self.excite.bias)

    def forward(self, context: Tensor) -> tuple[Tensor, Tensor | None]:
        return 2 * self.excite(self.squeeze(context).relu()).sigmoid(), None

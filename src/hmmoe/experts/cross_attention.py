"""Cross-attention experts: one stream asks, the others answer.

    Y = softmax(Q K^T / sqrt(r)) V        Q = Z_m W_q,  K = Z_n W_k,  V = Z_n W_v        r x r matrices per expert

with the tokens of all other streams n side by side as keys and values. Beyond `exact_tokens` keys the same attention goes
through L latent tokens, the means A of L stretches of the queries, so that cost is linear in tokens on both sides:

    Y = softmax(Q A^T / sqrt(r)) [softmax(A K^T / sqrt(r)) V]

Source: the paper (arXiv 2503.20633) names the family; doing it in rank space is the paper's, the projections and the
latents (as in agent attention, arXiv 2312.08874: no weight depends on a token count, none is idle on short streams) are
our choice.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmmoe.experts.base import TokenExperts


class CrossAttention(TokenExperts):
    """One head per expert.

    Args:
        latents: number L of latent tokens.
        exact_tokens: up to this many keys attention is exact; it also is when there are at most `latents` queries.
    """

    def __init__(self, count: int, rank: int, others: int, latents: int = 16, exact_tokens: int = 64) -> None:
        super().__init__(count, rank, others)
        self.latents, self.exact_tokens = latents, exact_tokens
        for name in ("query", "key", "value"):
            weight = nn.Parameter(torch.empty(count, rank, rank))
            nn.init.normal_(weight, std=rank**-0.5)
            self.register_parameter(name, weight)

    def forward(self, own: Tensor, read: Tensor, own_mask: Tensor | None, read_mask: Tensor | None) -> Tensor:
        q = self._heads(own, self.query)  # (B, n, N, r)
        k, v = self._heads(read, self.key), self._heads(read, self.value)  # (B, n, K, r)
        keys = None if read_mask is None else read_mask[:, None, None]  # (B, 1, 1, K)
        if k.shape[2] > self.exact_tokens and q.shape[2] > self.latents:
            latent, filled = self._stretch_means(q, own_mask)  # (B, n, L, r), (B, 1, 1, L)
            v = F.scaled_dot_product_attention(latent, k, v, keys)  # (B, n, L, r)
            k, keys = latent, filled
        y = F.scaled_dot_product_attention(q, k, v, keys)
        return y.transpose(1, 2).flatten(2)  # (B, N, n*r)

    def _heads(self, z: Tensor, weight: Tensor) -> Tensor:
        """`(B, N, n*r)` times one r x r matrix per expert -> `(B, n, N, r)`."""
        return z.unflatten(-1, (self.count, self.rank)).transpose(1, 2) @ weight

    def _stretch_means(self, q: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Means of the real tokens of L stretches, and which stretches hold any."""
        flat = q.flatten(0, 1).transpose(1, 2)  # (B*n, r, N)
        if mask is None:
            return F.adaptive_avg_pool1d(flat, self.latents).transpose(1, 2).unflatten(0, q.shape[:2]), None
        real = mask[:, None].to(q.dtype)  # (B, 1, N)
        share = F.adaptive_avg_pool1d(real, self.latents)[:, None].transpose(2, 3)  # (B, 1, L, 1)
        sums = F.adaptive_avg_pool1d(flat * real.repeat_interleave(self.count, 0), self.latents)
        means = sums.transpose(1, 2).unflatten(0, q.shape[:2]) / share.clamp(min=1 / q.shape[2])
        filled = (share > 0).transpose(2, 3)  # (B, 1, 1, L)
        return means, filled | ~filled.any(-1, keepdim=True)  # a missing stream asks nothing, but must not turn into NaN

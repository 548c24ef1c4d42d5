"""Cross-attention experts: one stream asks, the others answer.

    Y = softmax(Q K^T / sqrt(r)) V        Q = Z_m W_q,  K = Z_n W_k,  V = Z_n W_v,  r x r matrices

with the tokens of all other streams n side by side as keys and values. Beyond `exact_tokens` keys the same
attention goes through L latent tokens, the means A of L stretches of the queries, so that cost is linear in
tokens on both sides (never for a causal stream, whose later tokens the means would show to earlier ones):

    Y = softmax(Q A^T / sqrt(r)) [softmax(A K^T / sqrt(r)) V]

Source: the paper (arXiv 2503.20633) names the family; doing it in rank space is the paper's, the projections
and the latents (as in agent attention, arXiv 2312.08874: no weight depends on a token count, none is idle on
short streams) are our choice.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmmoe.experts.base import TokenExperts


class CrossAttention(TokenExperts):
    """One head per expert; parameters `query`, `key` and `value`, each `(n, r, r)`.

    Args:
        latents: number L of latent tokens.
        exact_tokens: up to this many keys attention is exact; it also is when there are at most `latents`
            queries.
    """

    def __init__(
        self, count: int, rank: int, context: int, latents: int = 16, exact_tokens: int = 64
    ) -> None:
        super().__init__(count, rank, context)
        self.latents, self.exact_tokens = latents, exact_tokens
        self.query, self.key, self.value = (
            nn.Parameter(nn.init.normal_(torch.empty(count, rank, rank), std=rank**-0.5)) for _ in range(3)
        )

    def forward(
        self,
        own: Tensor,
        read: Tensor,
        own_mask: Tensor | None,
        read_mask: Tensor | None,
        causal: bool = False,
    ) -> Tensor:
        z_m, z_n = self._heads(own), self._heads(read)  # (B, n, N, r), (B, n, K, r)
        keys = None if read_mask is None else read_mask[:, None, None]  # (B, 1, 1, K)
        # r x r matrices act on whichever side has fewer tokens: (Z W_q)(Z' W_k)^T = (Z W_q W_k^T) Z'^T
        if causal or z_n.shape[2] <= self.exact_tokens or z_m.shape[2] <= self.latents:
            asked = z_m @ (self.query @ self.key.mT)
            y = F.scaled_dot_product_attention(asked, z_n, z_n, keys) @ self.value
        else:
            means, filled = self._stretch_means(z_m, own_mask)  # (B, n, L, r), (B, 1, 1, L)
            a = means @ self.query
            answers = F.scaled_dot_product_attention(a @ self.key.mT, z_n, z_n, keys) @ self.value
            y = F.scaled_dot_product_attention(z_m, a @ self.query.mT, answers, filled)
        return y.transpose(1, 2).flatten(2)  # (B, N, n*r)

    def _heads(self, z: Tensor) -> Tensor:
        """`(B, N, n*r)` -> `(B, n, N, r)`."""
        return z.unflatten(-1, (self.count, self.rank)).transpose(1, 2)

    def _stretch_means(self, z: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Means over the real tokens of L stretches, `(B, n, L, r)`; which hold any, `(B, 1, 1, L)`."""
        flat = z.flatten(0, 1).transpose(1, 2)  # (B*n, r, N)
        if mask is None:
            return F.adaptive_avg_pool1d(flat, self.latents).transpose(1, 2).unflatten(0, z.shape[:2]), None
        real = mask[:, None].to(z.dtype)  # (B, 1, N)
        share = F.adaptive_avg_pool1d(real, self.latents)[:, :, None].transpose(2, 3)  # (B, 1, L, 1)
        sums = F.adaptive_avg_pool1d(flat * real.repeat_interleave(self.count, 0), self.latents)
        means = sums.transpose(1, 2).unflatten(0, z.shape[:2]) / share.clamp(min=1 / z.shape[2])
        filled = (share > 0).transpose(2, 3)  # (B, 1, 1, L)
        return means, filled | ~filled.any(
            -1, keepdim=True
        )  # a missing stream asks nothing, but must not turn into NaN

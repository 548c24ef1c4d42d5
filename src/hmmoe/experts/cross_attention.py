"""Cross-attention experts: one stream asks, the others answer.

    Y = phi(Z_m) + softmax(Q K^T / sqrt(r)) V        Q = Z_m W_q,  K = Z_n W_k,  V = Z_n W_v,  r x r matrices

with the tokens of all other streams n side by side as keys and values. A stream of more than `exact_tokens`
real tokens is read through L latent tokens, the means of L stretches of them, so that cost is linear in
tokens; what a sample reads does not depend on how far its batch is padded.

Source: the paper (arXiv 2503.20633) names the family; doing it in rank space is the paper's, the projections,
the latents and the token's own phi(Z_m) are our choice: no weight depends on a token count, none is idle on
short streams, what a token learns does not depend on the other tokens of its own stream, and like every kind
this one starts near the uni-modal expert (what the other stream says is small at first).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmmoe.experts.base import TokenExperts


class CrossAttention(TokenExperts):
    """One head per expert; parameters `query`, `key` and `value`, each `(n, r, r)`.

    Args:
        latents: number L of latent tokens of a long stream.
        exact_tokens: up to this many tokens a stream is read token by token.
    """

    def __init__(
        self, count: int, rank: int, context: int, latents: int = 16, exact_tokens: int = 64
    ) -> None:
        super().__init__(count, rank, context)
        self.latents, self.exact_tokens = latents, exact_tokens
        self.query, self.key, self.value = (
            nn.Parameter(nn.init.normal_(torch.empty(count, rank, rank), std=scale * rank**-0.5))
            for scale in (1, 1, 0.2)
        )

    def forward(self, own: Tensor, read: Sequence[Tensor], masks: Sequence[Tensor | None]) -> Tensor:
        short = [self._condense(z, mask) for z, mask in zip(read, masks, strict=True)]
        known = torch.cat([z for z, _ in short], 1) if len(short) > 1 else short[0][0]
        seen = None
        if any(mask is not None for mask in masks):
            there = [z.new_ones(z.shape[:2], dtype=torch.bool) if mask is None else mask for z, mask in short]
            seen = torch.cat(there, 1)
            # a sample with nothing to read: its gate is zero, but its softmax must not be NaN
            seen = (seen | ~seen.any(-1, keepdim=True))[:, None, None]  # (B, 1, 1, K)
        # both r x r matrices act on the side with few tokens: (Z W_q)(Z' W_k)^T = Z (Z' W_k W_q^T)^T
        weights = torch.cat([torch.bmm(self.key, self.query.mT), self.value], -1)  # (n, r, 2r)
        z_n = known.unflatten(-1, (self.count, self.rank)).permute(2, 0, 1, 3)  # (n, B, K, r)
        answers = torch.bmm(z_n.flatten(1, 2), weights).unflatten(1, z_n.shape[1:3]).transpose(0, 1)
        asks = own.unflatten(-1, (self.count, self.rank)).transpose(1, 2)  # (B, n, N, r)
        keys, values = answers.chunk(2, -1)  # (B, n, K, r)
        y = F.scaled_dot_product_attention(asks, keys, values, seen)
        return y.transpose(1, 2).flatten(2)  # (B, N, n*r)

    def _condense(self, z: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Means over L stretches of the real tokens, `(B, K, n*r)`, and which hold any, `(B, K)`.

        Stretch i of n tokens goes from floor(i n / L) to ceil((i + 1) n / L), as in adaptive pooling. A short
        sample in a batch of long ones has as many stretches as tokens.
        """
        most = max(self.exact_tokens, self.latents)
        if z.shape[1] <= most:
            return z, mask
        if mask is None and z.shape[1] % self.latents == 0:
            return z.unflatten(1, (self.latents, -1)).mean(2), None
        if mask is None:
            return F.adaptive_avg_pool1d(z.mT, self.latents).mT, None
        n, i = mask.sum(-1, keepdim=True), torch.arange(most, device=z.device)
        count = n.where(n <= most, self.latents)  # (B, 1) stretches
        first = i * n // count.clamp(min=1)  # (B, K)
        last = (-(-(i + 1) * n // count.clamp(min=1))).where(i < count, first)
        place = (mask.cumsum(-1) - 1)[:, None]  # (B, 1, N), among the real tokens
        inside = (place >= first[..., None]) & (place < last[..., None]) & mask[:, None]  # (B, K, N)
        return inside.to(z.dtype) @ z / (last - first).clamp(min=1)[..., None], last > first

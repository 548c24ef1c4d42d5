"""The router: how much each expert of each stream counts, for this sample (or this token).

    g_m = softmax(R_m tanh(S [pool(Z_1), ..., pool(Z_M)]))          per sample
    g_m = softmax(R_m tanh(S [...]) + T_m Z_m)                      per token

over the experts that are available: an expert whose other streams are all missing gets weight 0 and the rest are
normalised again. Top-k keeps the k largest weights, as masked weights on dense work, so that every parameter gets a
gradient every step.

Auxiliary losses (to be added to the task's loss with a small weight):
    balance   E * sum_e (mean weight of e - 1/E)^2, 0 when all experts are used alike: the squared coefficient of variation
              of their importance (Shazeer et al., arXiv 1701.06538, section 4); with missing streams 1/E is 1 over the
              number of available experts
    z         mean over samples of logsumexp(logits)^2 (ST-MoE, arXiv 2202.08906, eq. 5)
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Router(nn.Module):
    """Weights over experts for every stream.

    Args:
        streams: names of the streams.
        experts: number of experts E of every stream.
        width: channels W of a stream's low-rank states.
        hidden: width of the router's hidden layer.
        per_token: route every token by itself instead of the whole sample.
        top_k: keep only the k largest weights; None keeps all.
        bias: initial logits `(E,)`, zero if None.
    """

    def __init__(
        self,
        streams: tuple[str, ...],
        experts: int,
        width: int,
        *,
        hidden: int = 32,
        per_token: bool = False,
        top_k: int | None = None,
        bias: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.top_k = top_k
        self.sense = nn.Linear(len(streams) * width, hidden)
        self.rate = nn.ModuleDict({m: nn.Linear(hidden, experts) for m in streams})
        self.token = nn.ModuleDict({m: nn.Linear(width, experts, bias=False) for m in streams if per_token})
        for rate in self.rate.values():
            nn.init.normal_(rate.weight, std=1e-2)
            nn.init.zeros_(rate.bias)
            if bias is not None:
                with torch.no_grad():
                    rate.bias.copy_(bias)
        for token in self.token.values():
            nn.init.normal_(token.weight, std=1e-2)

    def sense_all(self, pooled: Tensor) -> Tensor:
        """What all streams' routers look at: `(B, M * W)` pooled low-rank states, zero where missing -> `(B, hidden)`."""
        return torch.tanh(self.sense(pooled))

    def forward(self, stream: str, sensed: Tensor, z: Tensor, available: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of one stream's experts.

        Args:
            stream: its name.
            sensed: `(B, hidden)` from `sense_all`.
            z: `(B, N, W)` its low-rank states (read per token only).
            available: `(B, E)` bool.

        Returns:
            weights and logits, `(B, E)` or `(B, N, E)`; a sample without any available expert gets weights of 0.
        """
        logits = self.rate[stream](sensed)  # (B, E)
        if self.token:
            logits = logits[:, None] + self.token[stream](z)  # (B, N, E)
            available = available[:, None]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # softmax never runs in half precision
        lowest = torch.finfo(logits.dtype).min
        logits = logits.masked_fill(~available, lowest)
        kept = logits
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            floor = logits.topk(self.top_k, -1).values[..., -1:]
            kept = logits.masked_fill(logits < floor, lowest)
        return kept.softmax(-1) * available, logits


def balance_loss(weights: Tensor, available: Tensor, counted: Tensor) -> Tensor:
    """Squared coefficient of variation of the experts' use.

    Args:
        weights: `(B, E)` or `(B, N, E)`.
        available: `(B, E)` bool.
        counted: `(B,)` or `(B, N)` bool, the samples (tokens) that count.
    """
    share = available / available.sum(-1, keepdim=True).clamp(min=1)  # (B, E): what an even use would be
    if weights.dim() == 3:
        share = share[:, None].expand_as(weights)
    counted = counted[..., None].to(weights.dtype)
    gap = (counted * (weights - share)).flatten(0, -2).sum(0) / counted.sum().clamp(min=1)
    return weights.shape[-1] * gap.square().sum()


def z_loss(logits: Tensor, counted: Tensor) -> Tensor:
    """Mean squared log-partition of `(B, E)` or `(B, N, E)` logits over the counted samples (tokens)."""
    counted = counted & (logits > torch.finfo(logits.dtype).min).any(-1)
    squared = logits.logsumexp(-1).masked_fill(~counted, 0).square()
    return squared.sum() / counted.sum().clamp(min=1)


def expert_bias(kinds: Mapping[str, int], reads_others: Mapping[str, bool], lean: float) -> Tensor:
    """Initial logits that lean toward uni-modal experts by `lean`, `(E,)`."""
    return torch.cat([torch.full((n,), 0.0 if reads_others[kind] else lean) for kind, n in kinds.items()])

"""The router: how much each expert of each stream counts, for this sample (or this token).

    g_m = softmax(R_m tanh(S [pool(Z_1), ..., pool(Z_M)]))          per sample
    g_m = softmax(R_m tanh(S [...]) + T_m Z_m)                      per token

over the experts that are available: an expert whose other streams are all missing gets weight 0 and the rest
are normalised again. Top-k keeps the k largest weights, as masked weights on dense work, so that every
parameter gets a gradient every step.

Auxiliary losses (to be added to the task's loss with a small weight):
    balance   E * sum_e (mean weight of e - 1/E)^2, 0 when all experts are used alike: the squared coefficient
              of variation of their importance (Shazeer et al., arXiv 1701.06538, section 4); with missing
              streams 1/E is 1 over the number of available experts
    z         mean over samples of logsumexp(logits)^2 (ST-MoE, arXiv 2202.08906, eq. 5)
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

Losses = Callable[[], tuple[Tensor, Tensor]]  # balance and z


class Router(nn.Module):
    """Weights over experts for every stream.

    Args:
        streams: names of the streams.
        experts: number of experts E of every stream.
        width: channels W of a stream's low-rank states.
        hidden: width of the router's hidden layer.
        per_token: route every token by itself instead of the whole sample.
        top_k: keep only the k largest weights; None keeps all.
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
    ) -> None:
        super().__init__()
        self.top_k = top_k
        self.sense = nn.Linear(len(streams) * width, hidden)
        self.rate = nn.ModuleDict({m: nn.Linear(hidden, experts) for m in streams})
        self.token = nn.ModuleDict({m: nn.Linear(width, experts, bias=False) for m in streams if per_token})
        for name, parameter in [*self.rate.named_parameters(), *self.token.named_parameters()]:
            nn.init.zeros_(parameter) if name.endswith("bias") else nn.init.normal_(parameter, std=1e-2)

    def forward(
        self,
        pooled: Tensor,
        z: Mapping[str, Tensor],
        available: Mapping[str, Tensor | None],
        counted: Mapping[str, Tensor | None],
    ) -> tuple[dict[str, Tensor], Losses]:
        """Weights of all streams' experts.

        Args:
            pooled: `(B, M * W)` pooled low-rank states of all streams side by side, zero where missing.
            z: stream -> `(B, N, W)`, the streams to route; their tokens are read only when routing per token.
            available: stream -> `(B, E)` bool, or None when all experts are.
            counted: stream -> what counts in the losses, `(B,)` bool (per token: `(B, N)`), or None when all
                do.

        Returns:
            stream -> `(B, E)` or `(B, N, E)` weights, zero for a sample without any available expert; and
            what works out the balance loss and the z-loss, averaged over streams, if they are wanted.
        """
        sensed = torch.tanh(self.sense(pooled))  # (B, hidden)
        logits = {m: self.rate[m](sensed) for m in z}  # (B, E)
        if self.token:
            logits = {m: x[:, None] + self.token[m](z[m]) for m, x in logits.items()}  # (B, N, E)
        shapes = [x.shape for x in logits.values()]
        lengths = [shape[:-1].numel() for shape in shapes]
        rows = torch.cat([x.flatten(0, -2) for x in logits.values()])  # (R, E): all decisions of all streams
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))  # never a softmax in half precision
        can = None
        if any(a is not None for a in available.values()):
            can = torch.cat([_as_rows(available[m], shape, rows) for m, shape in zip(z, shapes, strict=True)])
            rows = rows.masked_fill(~can, torch.finfo(rows.dtype).min)
        weights = masked_softmax(rows, can, self.top_k)

        def losses() -> tuple[Tensor, Tensor]:
            even = 1 / rows.shape[-1] if can is None else can / can.sum(-1, keepdim=True).clamp(min=1)
            partition = rows.logsumexp(-1)
            if can is not None:
                partition = partition.masked_fill(~can.any(-1), 0)
            figures = torch.cat([weights - even, partition.square()[:, None]], -1).split(lengths)
            means = torch.stack([_mean(f, counted[m]) for m, f in zip(z, figures, strict=True)])  # (M, E + 1)
            balance = rows.shape[-1] * means[:, :-1].square().sum() / len(shapes)
            return balance, means[:, -1].mean()

        split = weights.split(lengths)
        return {m: w.view(shape) for m, w, shape in zip(z, split, shapes, strict=True)}, losses


class Uniform(nn.Module):
    """In the router's place, learning nothing: all available experts count alike: what routing is
    measured by.

    Args and returns of `forward` are the `Router`'s; both losses are zero.
    """

    token = False

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.experts = experts

    def forward(
        self,
        pooled: Tensor,
        z: Mapping[str, Tensor],
        available: Mapping[str, Tensor | None],
        counted: Mapping[str, Tensor | None],
    ) -> tuple[dict[str, Tensor], Losses]:
        exact = torch.promote_types(pooled.dtype, torch.float32)
        weights = {}
        for m in z:
            can = available[m]
            even = pooled.new_ones(len(pooled), self.experts) if can is None else can
            weights[m] = even.to(exact) / even.sum(-1, keepdim=True).clamp(min=1)  # (B, E)
        nothing = pooled.new_zeros((), dtype=exact)
        return weights, lambda: (nothing, nothing)


def masked_softmax(logits: Tensor, can: Tensor | None, top_k: int | None) -> Tensor:
    """Softmax over what is available, its k largest weights only.

    Args:
        logits: `(R, E)`, the lowest number where something is not available.
        can: `(R, E)` bool, or None when everything is available.

    Returns:
        `(R, E)`, zero in a row without anything available.
    """
    if top_k is not None and top_k < logits.shape[-1]:
        lowest = torch.finfo(logits.dtype).min
        logits = logits.masked_fill(logits < logits.topk(top_k, -1).values[:, -1:], lowest)
    weights = logits.softmax(-1)
    return weights if can is None else weights * can


def _as_rows(available: Tensor | None, shape: torch.Size, like: Tensor) -> Tensor:
    """Availability of each decision, `(R_m, E)` bool."""
    if available is None:
        return torch.ones(shape, dtype=torch.bool, device=like.device).flatten(0, -2)
    return (available if len(shape) == 2 else available[:, None].expand(shape)).flatten(0, -2)


def _mean(figures: Tensor, counted: Tensor | None) -> Tensor:
    """Mean of `(R_m, F)` figures over the decisions that count, `(F,)`."""
    if counted is None:
        return figures.mean(0)
    counts = counted.flatten().to(figures.dtype)
    return counts @ figures / counts.sum().clamp(min=1)

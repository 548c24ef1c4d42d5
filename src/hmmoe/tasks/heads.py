"""Heads that read the mean of each stream's tokens, normalised."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hmmoe.container import POOLED


def mean_tokens(states: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the real tokens: (…, N, D) -> (…, D); zeros where no token is real (a missing stream)."""
    if mask is None:
        return states.mean(-2)
    weight = mask.to(states.dtype).unsqueeze(-1)  # (…, N, 1)
    return (states * weight).sum(-2) / weight.sum(-2).clamp(min=1)


def summary(states: Tensor, mask: Tensor | None) -> Tensor:
    """`mean_tokens` brought to zero mean and unit variance over its channels: (…, N, D) -> (…, D).

    Towers differ in scale by up to ten, and without this the weights of a quiet one learn that much more
    slowly. A missing stream stays zeros. No parameters.
    """
    pooled = mean_tokens(states, mask)
    return F.layer_norm(pooled, pooled.shape[-1:])


def summaries(
    states: Mapping[str, Tensor], masks: Mapping[str, Tensor | None], widths: Mapping[str, int]
) -> dict[str, Tensor]:
    """`summary` of every stream in the order of `widths`, (…, D_m); zeros for one that is missing."""
    known = {m: summary(x, masks.get(m)) for m, x in states.items()}
    like = next(iter(known.values()))
    return {
        m: known[m] if m in known else like.new_zeros(*like.shape[:-1], width) for m, width in widths.items()
    }


class PooledHead(nn.Module):
    """Classes from the summaries of all streams side by side: (…, N_m, D_m) -> (…, classes).

    With folded streams the answer is per item: (B, T, N, D) -> (B, T, classes). A missing stream counts as
        zeros.

    Args:
        widths: stream -> D_m.
        classes: size of the answer.
        kind: "linear", "mlp" with one hidden layer of 256, or "own": on nothing but the model's own summary
            ("pooled" among the streams, from VLMo), as it was published: linear to twice the model's width,
            layer norm, GELU, linear.

    Raises:
        ValueError: the model has no summary of its own.
    """

    def __init__(self, widths: Mapping[str, int], classes: int, kind: str = "linear"):
        super().__init__()
        if kind == "own" and POOLED not in widths:
            raise ValueError(
                "head: own needs a model with a summary of its own, such as vlmo, and here are only "
                f"{', '.join(widths)}"
            )
        self.widths = {POOLED: widths[POOLED]} if kind == "own" else dict(widths)
        self.kind, total = kind, sum(self.widths.values())
        if kind == "own":
            hidden = 2 * min(widths.values())
            self.answer: nn.Module = nn.Sequential(
                nn.Linear(total, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, classes)
            )
        elif kind == "linear":
            self.answer = nn.Linear(total, classes)
        else:
            self.answer = nn.Sequential(nn.Linear(total, 256), nn.GELU(), nn.Linear(256, classes))

    def forward(self, states: Mapping[str, Tensor], masks: Mapping[str, Tensor | None]) -> Tensor:
        if self.kind == "own":
            return self.answer(states[POOLED][:, 0])
        return self.answer(torch.cat(list(summaries(states, masks, self.widths).values()), -1))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy: logits (…, classes), labels (…)."""
        return F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten())

"""Multi-modal multiple-instance learning with hybrid attention (HAN: Tian, Li and Xu, ECCV 2020).

    h_m   = x_m + attend(x_m to x_m) + attend(x_m to x_n), a feed-forward block after it      hybrid attention
    p_mt  = σ(P h_mt)                                                           every second, (B, T, classes)
    p_m   = Σ_t softmax_t(A h_mt) p_mt                                          what is heard, what is seen
    p     = Σ_m Σ_t softmax_m(B h_mt) softmax_t(A h_mt) p_mt                    the video
    loss  = BCE(p, y) + BCE(p_audio, y) + BCE(p_video, 0.9 y + 0.05)            y: the video's classes

Only the video's classes are known in training. That the picture alone shows them is taken less for granted
than that the sound alone does, hence the smoothed target.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hmmoe.tasks.heads import summaries

WIDTH, HEADS = 256, 4
SMOOTH = 0.1  # of the target for what is seen
STREAMS = ("audio", "video")


class ParsingHead(nn.Module):
    """`{"audio": (B, T, C), "video": (B, T, C) logits of every second, "whole": (B, C) probabilities}`, and
    `{"heard": (B, C), "seen": (B, C)}`, the probabilities of each stream.

    Args:
        widths: stream -> D_m, of the streams audio and video.
        classes: C.
        kind: what a second's tokens go through first: "linear", "mlp", or "hybrid" attention.
    """

    def __init__(self, widths: Mapping[str, int], classes: int, kind: str = "hybrid"):
        super().__init__()
        self.widths = {m: widths[m] for m in STREAMS}
        self.enter = nn.ModuleDict({m: nn.Linear(width, WIDTH) for m, width in self.widths.items()})
        self.kind = kind
        if kind == "hybrid":
            self.hybrid = HybridAttention()
        self.second = nn.Linear(WIDTH, classes)
        self.when = nn.Linear(WIDTH, classes)
        self.which = nn.Linear(WIDTH, classes)

    def forward(self, states: Mapping[str, Tensor], masks: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
        known = summaries(states, masks, self.widths)  # (B, T, D_m)
        h = torch.stack([self.enter[m](known[m]) for m in STREAMS], 1)  # (B, 2, T, W)
        if self.kind == "mlp":
            h = h.relu()
        elif self.kind == "hybrid":
            h = self.hybrid(h)
        logits = self.second(h).float()  # (B, 2, T, C)
        told = logits.sigmoid() * self.when(h).float().softmax(2)  # what a second adds to its stream
        streams = told.sum(2)  # (B, 2, C)
        whole = (told * self.which(h).float().softmax(1)).sum((1, 2))  # (B, C)
        return {
            "audio": logits[:, 0],
            "video": logits[:, 1],
            "whole": whole,
            "heard": streams[:, 0],
            "seen": streams[:, 1],
        }

    def loss(self, logits: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Mean over the batch.

        Args:
            logits: of `forward`.
            labels: (B, C) of the whole video; or (B, 2, C, T), heard and seen in every second, of which the
                loss takes what is in the video at all.
        """
        if labels.ndim == 4:
            labels = labels.amax((1, 3))
        y = labels.float()
        return (
            _entropy(logits["whole"], y)
            + _entropy(logits["heard"], y)
            + _entropy(logits["seen"], (1 - SMOOTH) * y + SMOOTH / 2)
        )


class HybridAttention(nn.Module):
    """Every second attends to all seconds of its own stream and of the other: (B, 2, T, W) -> the same."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.other = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.feed = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        mine, theirs = x.flatten(0, 1), x.flip(1).flatten(0, 1)  # (2B, T, W)
        own = self.own(mine, mine, mine, need_weights=False)[0]
        other = self.other(mine, theirs, theirs, need_weights=False)[0]
        h = self.norms[0](mine + own + other)
        return self.norms[1](h + self.feed(h)).view_as(x)


def _entropy(p: Tensor, y: Tensor) -> Tensor:
    """Binary cross-entropy of probabilities, which autocast refuses in torch's own form."""
    p = p.float().clamp(1e-6, 1 - 1e-6)
    return -(y * p.log() + (1 - y) * (1 - p).log()).mean()

"""The adapter of `hmmoe.methods.avmoe`, where its equation is."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hmmoe.methods.parts.cross import GatedBottleneck, LatentAttention, Read, Reader, mean_of


class AVMoEAdapter(nn.Module):
    """One stream's update from another.

    Args:
        width: C.
        others: stream -> width, of what is read.
        cross, uni: numbers of cross-modal and uni-modal experts.
        size: channels of each bottleneck.
        router: widths of the router's two hidden layers.
        latents: K.
        groups, batch_norm, dropout: see `GatedBottleneck`.
        rank, tokens: see `Reader`.
    """

    def __init__(
        self,
        width: int,
        others: Mapping[str, int],
        *,
        cross: int,
        uni: int,
        size: int,
        router: tuple[int, int],
        latents: int,
        groups: int,
        batch_norm: bool,
        rank: int | None,
        dropout: float = 0.0,
        tokens: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        self.reader = Reader(width, others, rank=rank, tokens=tokens)
        self.attentions = nn.ModuleList(LatentAttention(width, latents) for _ in range(cross))
        self.bottlenecks = nn.ModuleList(
            GatedBottleneck(width, size, groups, batch_norm=batch_norm, relu=e < cross, dropout=dropout)
            for e in range(cross + uni)
        )
        first, second = router
        self.router = nn.Sequential(
            nn.Linear(2 * width, first),
            nn.ReLU(),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Linear(second, cross + uni),
        )

    def forward(self, x: Tensor, mask: Tensor | None, read: Read) -> tuple[Tensor, Tensor]:
        y, real = self.reader(x, read)
        logits = self.router(torch.cat([mean_of(x, mask), mean_of(y, real)], -1))
        p = logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))  # (B, E)
        seen = [attention(x, y, real) for attention in self.attentions]
        update = torch.zeros_like(x)
        for e, bottleneck in enumerate(self.bottlenecks):
            expert = bottleneck(seen[e] if e < len(seen) else x, mask)
            update = update + p[:, e, None, None].to(expert.dtype) * expert
        return update, p

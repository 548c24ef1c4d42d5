"""The adapter of `hmmoe.methods.dg_sct`, where its equation is."""

from collections.abc import Mapping

from torch import Tensor, nn

from hmmoe.methods.parts.cross import GatedBottleneck, LatentAttention, Read, Reader, mean_of


class DGSCTAdapter(nn.Module):
    """One stream's update from another.

    Args:
        width: C.
        others: stream -> width, of what is read.
        size: channels of the bottleneck.
        hidden: channels of the attentions, half of it where they are narrow; published: C.
        latents: K.
        groups, batch_norm, dropout: see `GatedBottleneck`.
        rank, tokens: see `Reader`.
        alpha, beta: weights of channel and spatial attention.
    """

    def __init__(
        self,
        width: int,
        others: Mapping[str, int],
        *,
        size: int,
        hidden: int,
        latents: int,
        groups: int,
        batch_norm: bool,
        rank: int | None,
        dropout: float = 0.0,
        tokens: Mapping[str, tuple[int, int]] | None = None,
        alpha: float = 0.3,
        beta: float = 0.05,
    ) -> None:
        super().__init__()
        self.alpha, self.beta, half = alpha, beta, hidden // 2
        self.reader = Reader(width, others, rank=rank, tokens=tokens)
        self.attention = LatentAttention(width, latents)
        self.a1, self.v1 = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.wb, self.wc = nn.Linear(hidden, half), nn.Linear(half, width)
        self.a2, self.v2, self.ws = nn.Linear(width, half), nn.Linear(width, half), nn.Linear(half, 1)
        self.bottleneck = GatedBottleneck(width, size, groups, batch_norm=batch_norm, dropout=dropout)

    def forward(self, x: Tensor, mask: Tensor | None, read: Read) -> tuple[Tensor, None]:
        y, real = self.reader(x, read)
        x = self.attention(x, y, real)
        a = mean_of(y, real)[:, None]  # (B, 1, C)
        q = mean_of(self.a1(a).relu() * self.v1(x).relu(), mask)  # (B, hidden)
        c = self.wc(self.wb(q).relu()).sigmoid()[:, None]  # (B, 1, C)
        s = self.ws(self.v2(x * (1 + c)).relu() * self.a2(a).relu())  # (B, N, 1)
        x = x * (self.alpha * c + self.beta * s.sigmoid() + 1 - self.alpha)
        return self.bottleneck(x, mask), None

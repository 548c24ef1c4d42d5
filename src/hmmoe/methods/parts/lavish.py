"""The adapter of `hmmoe.methods.lavish`, where its equation is."""

from collections.abc import Mapping

from torch import Tensor, nn

from hmmoe.methods.parts.cross import GatedBottleneck, LatentAttention, Read, Reader


class LavishAdapter(nn.Module):
    """One stream's update from another.

    Args:
        width: C.
        others: stream -> width, of what is read.
        size: channels of the bottleneck.
        latents: K.
        groups, batch_norm, dropout: see `GatedBottleneck`.
        rank: of the layer between widths, see `Reader`.
    """

    def __init__(
        self,
        width: int,
        others: Mapping[str, int],
        *,
        size: int,
        latents: int,
        groups: int,
        batch_norm: bool,
        rank: int | None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.reader = Reader(width, others, rank=rank, same=True)
        self.attention = LatentAttention(width, latents)
        self.bottleneck = GatedBottleneck(width, size, groups, batch_norm=batch_norm, dropout=dropout)

    def forward(self, x: Tensor, mask: Tensor | None, read: Read) -> tuple[Tensor, None]:
        y, real = self.reader(x, read)
        return self.bottleneck(self.attention(x, y, real), mask), None

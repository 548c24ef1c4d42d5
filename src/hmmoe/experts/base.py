"""What every group of experts has in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn


class Experts(nn.Module, ABC):
    """`count` experts of one kind for one target stream, computed together.

    Args:
        count: number of experts n in the group.
        rank: channels r of each expert.
        context: width of what they may know of the other streams as a whole, their pooled low-rank states
            side by side.
    """

    reads_others: bool = True
    """False for experts that need no other stream: they stay available when every other stream is missing."""

    def __init__(self, count: int, rank: int, context: int) -> None:
        super().__init__()
        self.count, self.rank, self.context = count, rank, context

    def extra_repr(self) -> str:
        return f"count={self.count}, rank={self.rank}, context={self.context}"


class ChannelExperts(Experts):
    """Experts that scale and shift channels: `Y = phi(Z_m) * scale + shift`."""

    @abstractmethod
    def forward(self, context: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scale and shift of every channel.

        Args:
            context: `(B, context)` pooled low-rank states of the other streams side by side, zero where one
                is missing.

        Returns:
            scale and shift, each `(B, n * r)` or `(n * r,)`; a shift of None means no shift.
        """


class TokenExperts(Experts):
    """Experts that look at the tokens themselves: `Y = phi(Z_m) + y`, with a y for each token."""

    @abstractmethod
    def forward(self, own: Tensor, read: Sequence[Tensor], masks: Sequence[Tensor | None]) -> Tensor:
        """What the experts add to the token's own phi(Z_m), before the gate.

        Args:
            own: `(B, N, n * r)` low-rank states of the target stream. A token's output must depend on no
                other of them: the stream may be a text that is being written.
            read: `(B, K_i, n * r)` of each of the other streams that are there, at least one.
            masks: of each, `(B, K_i)` bool, True for tokens to read, or None when all are. Where a sample has
                none at all the output counts for nothing, but must be finite.

        Returns:
            `(B, N, n * r)`.
        """

"""A head for rows whose streams hold several items: photographs side by side, frames of a video."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from hmmoe.tasks.heads import PooledHead


class ItemsHead(nn.Module):
    """One answer per row, (B, classes): items stand side by side where their place matters, else as one mean.

    Args:
        widths: stream -> D_m.
        classes: size of the answer.
        kind: "linear" or "mlp", as in `PooledHead`.
        places: stream -> how many items stand side by side. The items of any other stream, (B, T, N, D), are
            read as one sequence of T·N tokens.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        classes: int,
        kind: str = "linear",
        places: Mapping[str, int] | None = None,
    ):
        super().__init__()
        self.places = dict(places or {})
        flat: dict[str, int] = {}
        for m, width in widths.items():
            flat |= {name: width for name in self._names(m)}
        self.pooled = PooledHead(flat, classes, kind)

    def _names(self, stream: str) -> list[str]:
        return [f"{stream}{i}" for i in range(self.places[stream])] if stream in self.places else [stream]

    def forward(self, states: Mapping[str, Tensor], masks: Mapping[str, Tensor | None]) -> Tensor:
        items: dict[str, Tensor] = {}
        real: dict[str, Tensor | None] = {}
        for m, x in states.items():
            mask = masks.get(m)
            if m in self.places:  # (B, T, N, D)
                for i, name in enumerate(self._names(m)):
                    items[name], real[name] = x[:, i], None if mask is None else mask[:, i]
            elif x.dim() == 4:
                items[m], real[m] = x.flatten(1, 2), None if mask is None else mask.flatten(1, 2)
            else:
                items[m], real[m] = x, mask
        return self.pooled(items, real)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over the rows whose answer is known.

        Args:
            logits: (B, classes).
            labels: (B, 2) class and row number, see `hmmoe.tasks.places`; class -1 is an answer outside the
                vocabulary.
        """
        total = F.cross_entropy(logits.float(), labels[:, 0], ignore_index=-1, reduction="sum")
        return total / (labels[:, 0] >= 0).sum().clamp(min=1)

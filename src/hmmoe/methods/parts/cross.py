"""What LAVISH, DG-SCT and AVMoE are made of: a stream x `(B, N, C)` reads tokens y `(B, M, C)` of others.

A missing stream has no tokens: attention over them adds nothing, and their mean is zero.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmmoe.errors import unknown
from hmmoe.layer import Routing

Read = Mapping[str, tuple[Tensor, Tensor | None]]  # stream -> its states and its mask


class CrossLayer(nn.Module):
    """One adapter per stream of a fusion point, all reading the states before any update.

    It is called as `HMMoELayer` is.

    Args:
        widths: stream -> width.
        adapter: makes the adapter of a stream from its width and the widths of the streams it reads. It is
            called with x, its mask and a `Read`, and returns an update and expert weights `(B, E)` or None.
    """

    def __init__(
        self, widths: Mapping[str, int], adapter: Callable[[int, Mapping[str, int]], nn.Module]
    ) -> None:
        super().__init__()
        self.widths = {m: widths[m] for m in sorted(widths)}
        self.others = {m: [n for n in self.widths if n != m] or [m] for m in self.widths}
        self.adapters = nn.ModuleDict(
            {m: adapter(d, {n: self.widths[n] for n in self.others[m]}) for m, d in self.widths.items()}
        )

    def forward(
        self, states: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None, steps: int = 1
    ) -> tuple[dict[str, Tensor], Routing]:
        """See `HMMoELayer.forward`. Every row is read by itself, whatever the `steps`, as published."""
        for m in [*states, *(masks or {})]:
            if m not in self.widths:
                raise ValueError(unknown("stream", m, self.widths))
        masks, own = masks or {}, {}
        kind = next(self.parameters()).dtype
        for m, x in states.items():
            own[m] = x if torch.is_autocast_enabled(x.device.type) else x.to(kind)
        updates, weights = {}, {}
        for m, x in own.items():
            read = {n: (own[n], masks.get(n)) for n in self.others[m] if n in own}
            update, weight = self.adapters[m](x, masks.get(m), read)
            update = update.to(states[m].dtype)
            updates[m] = update if m not in masks else update * masks[m][..., None]
            if weight is not None:
                weights[m] = weight.detach()
        none = next(iter(updates.values())).new_zeros((), dtype=torch.float32)
        return updates, Routing(weights, lambda: (none, none))


class Reader(nn.Module):
    """Tokens of the other streams, aligned with x and side by side: y_n ← fc_n(Wtok_n · y_n).

    Args:
        width: C.
        others: stream -> its width C'.
        rank: fc goes through this many channels where that takes fewer parameters; None for a full matrix.
        same: no fc where C' = C.
        tokens: stream -> (M, N) for Wtok, a 1x1 convolution over tokens as channels, as published: ties the
            adapter to one resolution.
    """

    def __init__(
        self,
        width: int,
        others: Mapping[str, int],
        *,
        rank: int | None,
        same: bool = False,
        tokens: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        self.width = width
        self.fc = nn.ModuleDict(
            {n: nn.Identity() if same and d == width else aligner(d, width, rank) for n, d in others.items()}
        )
        self.mix = nn.ModuleDict({n: nn.Linear(*sizes) for n, sizes in (tokens or {}).items()})

    def forward(self, x: Tensor, read: Read) -> tuple[Tensor, Tensor | None]:
        """All other tokens `(B, M, C)` and their mask `(B, M)`, None where all are real."""
        found, masks = [], []
        for n, (y, mask) in read.items():
            if n in self.mix:
                y = y if mask is None else y * mask[..., None]
                y = self.mix[n](y.mT).mT  # (B, N, C')
                mask = None if mask is None else mask.any(-1, keepdim=True).expand(y.shape[:2])
            found.append(self.fc[n](y))
            masks.append(mask)
        if not found:
            return x.new_zeros(len(x), 0, self.width), None
        if all(mask is None for mask in masks):
            return torch.cat(found, 1), None
        real = [
            torch.ones_like(y[..., 0], dtype=torch.bool) if k is None else k
            for y, k in zip(found, masks, strict=True)
        ]
        return torch.cat(found, 1), torch.cat(real, 1)


def aligner(inputs: int, outputs: int, rank: int | None) -> nn.Module:
    """A linear layer, as the product of two thin ones where that is smaller."""
    if rank is None or rank * (inputs + outputs) >= inputs * outputs:
        return nn.Linear(inputs, outputs)
    return nn.Sequential(nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs))


class LatentAttention(nn.Module):
    """x + gate · softmax(x T'ᵀ) T', with T' = T + softmax(T yᵀ) y for K latent tokens T; gate 0 at first."""

    def __init__(self, width: int, latents: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.rand(latents, width))
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
        tokens = self.tokens.expand(len(x), -1, -1)  # (B, K, C)
        if y.shape[1]:
            scores = tokens @ y.mT  # (B, K, M)
            if mask is not None:
                scores = scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min)
            share = scores.softmax(-1)
            if mask is not None:
                share = share * mask[:, None]
            tokens = tokens + share.to(y.dtype) @ y
        share = (x @ tokens.mT).softmax(-1)  # (B, N, K)
        return x + self.gate * (share.to(x.dtype) @ tokens)


class GatedBottleneck(nn.Module):
    """gate · LN(BN(up(φ(BN(down(LN(x))))))), up, down in channel groups without bias; gate 0 at first.

    Args:
        width: C.
        size: channels between down and up.
        groups: down and up map each of so many slices of the channels by itself (a grouped 1x1 convolution).
        batch_norm: with both BN.
        relu: with φ = ReLU; none otherwise.
        dropout: of what φ returns, in training.
    """

    def __init__(
        self,
        width: int,
        size: int,
        groups: int,
        *,
        batch_norm: bool,
        relu: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.before, self.post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.down, self.up = GroupedLinear(width, size, groups), GroupedLinear(size, width, groups)
        self.norm1 = TokenBatchNorm(size) if batch_norm else None
        self.norm2 = TokenBatchNorm(width) if batch_norm else None
        self.gate = nn.Parameter(torch.zeros(1))
        self.relu = relu

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        z = self.down(self.before(x))
        z = z if self.norm1 is None else self.norm1(z, mask)
        z = self.up(F.dropout(z.relu() if self.relu else z, self.dropout, self.training))
        z = z if self.norm2 is None else self.norm2(z, mask)
        return self.gate * self.post(z)


class GroupedLinear(nn.Module):
    """(…, inputs) -> (…, outputs), block-diagonal in `groups` equal blocks."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        if inputs % groups or outputs % groups:
            raise ValueError(
                f"groups={groups} does not divide a stream's width {inputs} or {outputs}; take groups=1"
            )
        self.weight = nn.Parameter(torch.empty(groups, inputs // groups, outputs // groups))
        nn.init.uniform_(self.weight, -((groups / inputs) ** 0.5), (groups / inputs) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.unflatten(-1, (len(self.weight), -1))  # (..., groups, inputs / groups)
        return torch.einsum("...gi,gio->...go", parts, self.weight).flatten(-2)


class TokenBatchNorm(nn.BatchNorm1d):
    """Batch norm over all real tokens of a batch, `(B, N, C)`; padding comes out as zeros."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:  # type: ignore[override]
        if mask is None:
            return super().forward(x.flatten(0, 1)).view(x.shape)
        real = x[mask]  # (R, C)
        if self.training and len(real) < 2:  # no statistics to take
            return x * mask[..., None]
        out = torch.zeros_like(x)
        out[mask] = super().forward(real).to(x.dtype)
        return out


def mean_of(y: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over real tokens, `(B, M, C)` -> `(B, C)`; zero where there is none."""
    if mask is None:
        return y.sum(1) / max(1, y.shape[1])
    real = mask[..., None].to(y.dtype)
    return (y * real).sum(1) / real.sum(1).clamp(min=1)

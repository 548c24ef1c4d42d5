"""From the scales of a vision tower and what is heard to a mask per frame.

    x_k = conv(norm(states of scale k))                     (B·T, C, h_k, w_k)
    z_k = x_k + norm(W Σ_s <θ(x_k), φ(a_s)> mean(g(x_k)_s) / T)     TPAVI: pixels meet every second's sound
    p_k = refine(z_k + resized p_{k+1}),   mask = conv(p_0), resized

TPAVI (Zhou et al., ECCV 2022) lets every pixel of every frame attend to all pixels of all frames with weights
<θ(x), φ(a)> / (T h w). There is no softmax and the sound is one vector a frame, so the sum over pixels can be
taken first: the same result in T steps instead of (T h w)².
"""

from collections.abc import Mapping
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hmmoe.streams.levels import level_name
from hmmoe.tasks.heads import summary

VIDEO, AUDIO = "video", "audio"


class MaskHead(nn.Module):
    """`{"masks": (B, T, size, size), "matching": (B,)}` from scales of "video" and the states of "audio".

    A missing stream counts as zeros.

    Args:
        widths: stream and level -> width.
        size: pixels a side of the masks.
        kind: "tpavi", or "linear": a weight vector per scale, whose maps are resized and added; the sound
            then counts only as far as adapters brought it into the pictures.
        channels: C of the decoder.
        matching: weight of the matching loss in `loss`.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        size: int,
        kind: str = "tpavi",
        channels: int = 256,
        matching: float = 0.0,
    ):
        super().__init__()
        self.size, self.matching = size, matching
        self.levels = {m: d for m, d in widths.items() if m.startswith(level_name(VIDEO, 0)[:-1])}
        self.sound_width = widths[AUDIO]
        self.linear = nn.ModuleList()
        self.enter, self.guides, self.refine = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        if kind == "linear":
            self.linear.extend(nn.Conv2d(d, 1, 1) for d in self.levels.values())
            return
        self.hear = nn.Linear(self.sound_width, channels)
        for d in self.levels.values():
            self.enter.append(nn.Conv2d(d, channels, 3, padding=1))
            self.guides.append(SoundGuide(channels))
            self.refine.append(Refine(channels))
        self.out = nn.ModuleList(
            [
                nn.Conv2d(channels, channels // 2, 3, padding=1),
                nn.Conv2d(channels // 2, max(8, channels // 8), 3, padding=1),
                nn.Conv2d(max(8, channels // 8), 1, 1),
            ]
        )

    def forward(self, states: Mapping[str, Tensor], masks: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
        like = next(iter(states.values()))
        batch, frames = like.shape[:2]
        maps = [self._map(states.get(m), masks.get(m), d, like) for m, d in self.levels.items()]
        if len(self.linear):
            scales = [self._resize(w(x)) for w, x in zip(self.linear, maps, strict=True)]
            found = torch.stack(scales).sum(0)
            nothing = found.new_zeros(batch, dtype=torch.float32)
            return {"masks": found.unflatten(0, (batch, frames))[:, :, 0], "matching": nothing}
        heard = self._heard(states, masks, batch, frames, like)  # (B, T, C)
        guided = []
        for x, enter, guide in zip(maps, self.enter, self.guides, strict=True):
            guided.append(guide(F.gelu(enter(x)), heard))
        p = self.refine[-1](guided[-1])
        for z, refine in zip(guided[-2::-1], list(self.refine)[-2::-1], strict=True):
            p = refine(z + F.interpolate(p, z.shape[-2:], mode="bilinear"))
        p = F.interpolate(self.out[0](p), scale_factor=2, mode="bilinear")
        found = self._resize(self.out[2](F.gelu(self.out[1](p))))  # (B·T, 1, size, size)
        matching = torch.stack([match(found, z, heard) for z in guided]).mean(0)  # (B,)
        return {"masks": found.unflatten(0, (batch, frames))[:, :, 0], "matching": matching}

    def loss(self, logits: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Mean binary cross-entropy over annotated pixels (label 0 or 1), plus the weighted matching loss."""
        known = labels >= 0
        found = F.binary_cross_entropy_with_logits(
            logits["masks"].float(), labels.clamp(min=0).float(), reduction="none"
        )
        loss = (found * known).sum() / known.sum().clamp(min=1)
        return loss + self.matching * logits["matching"].mean()

    def _map(self, x: Tensor | None, mask: Tensor | None, width: int, like: Tensor) -> Tensor:
        """A scale as pictures, (B·T, D, h, w), standardised per token; leading class tokens are left out."""
        if x is None:
            return like.new_zeros(like.shape[0] * like.shape[1], width, 1, 1)
        x = F.layer_norm(x, x.shape[-1:])
        if mask is not None:
            x = x * mask[..., None]
        x = x.flatten(0, 1)  # (B·T, N, D)
        side = isqrt(x.shape[1])
        return x[:, x.shape[1] - side * side :].transpose(1, 2).unflatten(2, (side, side))

    def _heard(
        self,
        states: Mapping[str, Tensor],
        masks: Mapping[str, Tensor | None],
        batch: int,
        frames: int,
        like: Tensor,
    ) -> Tensor:
        if AUDIO not in states:
            return self.hear(like.new_zeros(batch, frames, self.sound_width))
        return self.hear(summary(states[AUDIO], masks.get(AUDIO)))

    def _resize(self, x: Tensor) -> Tensor:
        return F.interpolate(x, (self.size, self.size), mode="bilinear")


class SoundGuide(nn.Module):
    """TPAVI of one scale: pictures (B·T, C, h, w) and sounds (B, T, C) -> (B·T, C, h, w)."""

    def __init__(self, channels: int):
        super().__init__()
        inner = max(1, channels // 2)
        self.theta, self.g = nn.Conv2d(channels, inner, 1), nn.Conv2d(channels, inner, 1)
        self.phi = nn.Linear(channels, inner)
        self.back = nn.Conv2d(inner, channels, 1)
        self.norm = nn.GroupNorm(1, channels)

    def forward(self, x: Tensor, heard: Tensor) -> Tensor:
        batch, seconds = heard.shape[:2]
        theta = self.theta(x).unflatten(0, (batch, seconds))  # (B, T, I, h, w)
        values = self.g(x).mean((-2, -1)).unflatten(0, (batch, seconds))  # (B, T, I)
        weights = torch.einsum("btihw,bsi->btshw", theta, self.phi(heard))
        y = torch.einsum("btshw,bsi->btihw", weights, values) / seconds
        return x + self.norm(self.back(y.flatten(0, 1)))


class Refine(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


def match(found: Tensor, z: Tensor, heard: Tensor) -> Tensor:
    """How far what is seen in the mask is from what is heard: AVSBench's KL regulariser, (B,).

    KL(softmax of the unit sound | softmax of the unit mean of the masked scale), summed over the frames of a
    sample (published: of the batch).

    Args:
        found: mask logits (B·T, 1, H, W).
        z: a scale of the decoder (B·T, C, h, w).
        heard: (B, T, C).
    """
    inside = F.adaptive_avg_pool2d(found, (z.shape[-2], z.shape[-1])).sigmoid()
    seen = F.normalize((z * inside).mean((-2, -1)).float(), dim=-1)  # (B·T, C)
    sound = F.normalize(heard.flatten(0, 1).float(), dim=-1)
    far = F.kl_div(seen.log_softmax(-1), sound.softmax(-1), reduction="none").sum(-1)  # (B·T,)
    return far.unflatten(0, heard.shape[:2]).sum(1)

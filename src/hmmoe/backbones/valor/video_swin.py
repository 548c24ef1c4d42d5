"""Video Swin transformer (Liu et al., arXiv 2106.13230) as VALOR-B runs it: without a stride in time.

    frames (B, T, 3, H, W) ─ patches 2 x 4 x 4 ─► [ blocks in windows of 8 x 7 x 7 ─ merge 2 x 2 ] x 4 ─► LN
                                 (B, T·H/4·W/4, C)      every second block shifts its windows by half

Between blocks the tokens are one sequence (B, N, C), frame by frame, row by row; windows exist only inside a
block. Parameter names are those of the public Video Swin checkpoints.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput

from .configuration import VideoSwinConfig


class Grid(NamedTuple):
    """Sizes along (time, rows, columns)."""

    t: int
    h: int
    w: int


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept between calls: must serve a later training step too
def relative_index(window: Grid, table: Grid, device: torch.device) -> Tensor:
    """Row of the bias table, made for windows `table`, of every pair of the n tokens of `window`, (n, n)."""
    axes = torch.meshgrid(*(torch.arange(size, device=device) for size in window), indexing="ij")
    place = torch.stack(axes).flatten(1)  # (3, n)
    offset = place[:, :, None] - place[:, None, :]  # (3, n, n), each in -(size - 1) .. size - 1
    row = torch.zeros_like(offset[0])
    for axis, size in enumerate(table):
        row = row * (2 * size - 1) + offset[axis] + size - 1
    return row


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def shift_mask(grid: Grid, window: Grid, shift: Grid, device: torch.device) -> Tensor:
    """Additive mask (windows, n, n) that keeps apart the far edges which a shift brings into one window.

    Rolling leaves three regions on a shifted axis: what was whole, the part that moved in, and what
    wrapped around.
    """
    region = torch.zeros(grid, device=device)
    for axis, (size, win, by) in enumerate(zip(grid, window, shift, strict=True)):
        if by:
            label = torch.zeros(size, device=device)
            label[size - win : size - by] = 1
            label[size - by :] = 2
            view = [1, 1, 1]
            view[axis] = size
            region = region * 3 + label.view(view)
    region = split_windows(region[None, ..., None], window)[0, :, :, 0]  # (windows, n)
    return (region[:, :, None] != region[:, None, :]).float() * -100.0


def split_windows(states: Tensor, window: Grid) -> Tensor:
    """(B, T, H, W, C) -> (B, windows, n, C); every axis must be a multiple of its window."""
    B, T, H, W, C = states.shape
    t, h, w = window
    states = states.view(B, T // t, t, H // h, h, W // w, w, C)
    return states.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(B, -1, t * h * w, C)


def join_windows(states: Tensor, window: Grid, grid: Grid) -> Tensor:
    """Inverse of `split_windows`: (B, windows, n, C) -> (B, T, H, W, C)."""
    B, C = states.shape[0], states.shape[-1]
    t, h, w = window
    states = states.view(B, grid.t // t, grid.h // h, grid.w // w, t, h, w, C)
    return states.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(B, *grid, C)


class WindowAttention(nn.Module):
    """Attention inside each window with a learned bias per relative place."""

    def __init__(self, width: int, heads: int, window: Grid):
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        places = math.prod(2 * size - 1 for size in window)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(places, heads))

    def forward(self, states: Tensor, window: Grid, mask: Tensor | None) -> Tensor:
        """States (B, windows, n, C), mask (windows, n, n) or None -> (B, windows, n, C)."""
        B, nW, n, C = states.shape
        q, k, v = self.qkv(states).view(B, nW, n, 3, self.heads, -1).permute(3, 0, 1, 4, 2, 5)
        index = relative_index(window, self.window, states.device)
        bias = self.relative_position_bias_table[index].permute(2, 0, 1)  # (heads, n, n)
        if mask is not None:
            bias = bias + mask[:, None].to(bias)  # (windows, heads, n, n)
        states = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.proj(states.transpose(2, 3).reshape(B, nW, n, C))


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, states: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(states)))


class SwinBlock(GradientCheckpointingLayer):
    """Pre-norm block: windowed attention, then the feed-forward part, both with a residual."""

    def __init__(self, config: VideoSwinConfig, width: int, heads: int, shifted: bool):
        super().__init__()
        self.window = Grid(*config.window)
        self.shifted = shifted
        self.norm1 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attn = WindowAttention(width, heads, self.window)
        self.norm2 = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mlp = FeedForward(width, int(width * config.mlp_ratio))

    def forward(self, states: Tensor, grid: Grid) -> Tensor:
        """States (B, T·H·W, C) on `grid` (T, H, W) -> the same shape."""
        states = states + self.attend(self.norm1(states), grid)
        return states + self.mlp(self.norm2(states))

    def attend(self, states: Tensor, grid: Grid) -> Tensor:
        # an axis no longer than the window is one window, and has nothing to shift
        window = Grid(*map(min, grid, self.window))
        shift = Grid(
            *(w // 2 if self.shifted and size > w else 0 for size, w in zip(grid, self.window, strict=True))
        )
        pad = Grid(*(-size % w for size, w in zip(grid, window, strict=True)))
        padded = Grid(*(size + extra for size, extra in zip(grid, pad, strict=True)))
        x = states.view(states.shape[0], *grid, -1)
        # zeros after the norm; like the published model, they are attended to
        x = F.pad(x, (0, 0, 0, pad.w, 0, pad.h, 0, pad.t))
        x = torch.roll(x, [-by for by in shift], dims=(1, 2, 3))
        mask = shift_mask(padded, window, shift, states.device) if any(shift) else None
        x = join_windows(self.attn(split_windows(x, window), window, mask), window, padded)
        x = torch.roll(x, list(shift), dims=(1, 2, 3))
        return x[:, : grid.t, : grid.h, : grid.w].reshape(states.shape)


class PatchMerging(nn.Module):
    """Four neighbours in a frame become one token of twice the width."""

    def __init__(self, config: VideoSwinConfig, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * width, eps=config.layer_norm_eps)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, states: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        """(B, T·H·W, C) -> (B, T·⌈H/2⌉·⌈W/2⌉, 2C) and its grid."""
        x = states.view(states.shape[0], *grid, -1)
        x = F.pad(x, (0, 0, 0, grid.w % 2, 0, grid.h % 2))
        corners = [x[:, :, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        x = self.reduction(self.norm(torch.cat(corners, dim=-1)))
        return x.flatten(1, 3), Grid(*x.shape[1:4])


class SwinStage(nn.Module):
    def __init__(self, config: VideoSwinConfig, stage: int):
        super().__init__()
        width, heads = config.embed_dim * 2**stage, config.num_heads[stage]
        self.blocks = nn.ModuleList(
            SwinBlock(config, width, heads, shifted=bool(i % 2)) for i in range(config.depths[stage])
        )
        last = stage == len(config.depths) - 1
        self.downsample = None if last else PatchMerging(config, width)

    def forward(self, states: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        for block in self.blocks:
            states = block(states, grid)
        return (states, grid) if self.downsample is None else self.downsample(states, grid)


class PatchEmbed(nn.Module):
    """Each frame's patches, read together with the frame that follows it (zeros follow the last one)."""

    def __init__(self, config: VideoSwinConfig):
        super().__init__()
        self.patch = Grid(*config.patch)
        stride = (1, self.patch.h, self.patch.w)
        self.proj = nn.Conv3d(3, config.embed_dim, kernel_size=self.patch, stride=stride)
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Grid]:
        """(B, T, 3, H, W) -> (B, T·⌈H/4⌉·⌈W/4⌉, C) and its grid; zeros fill up uneven sides."""
        H, W = pixel_values.shape[-2:]
        x = pixel_values.transpose(1, 2)  # (B, 3, T, H, W)
        x = F.pad(x, (0, -W % self.patch.w, 0, -H % self.patch.h, 0, self.patch.t - 1))
        x = self.proj(x)  # (B, C, T, H/4, W/4)
        return self.norm(x.flatten(2).transpose(1, 2)), Grid(*x.shape[2:])


class VideoSwin(nn.Module):
    """The encoder of all frames of a video together."""

    def __init__(self, config: VideoSwinConfig):
        super().__init__()
        self.patch_embed = PatchEmbed(config)
        self.layers = nn.ModuleList(SwinStage(config, stage) for stage in range(len(config.depths)))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixel_values: Tensor) -> BaseModelOutput:
        """Frames (B, T, 3, H, W) -> `last_hidden_state` (B, T·N, D), frame by frame."""
        states, grid = self.patch_embed(pixel_values)
        for stage in self.layers:
            states, grid = stage(states, grid)
        return BaseModelOutput(last_hidden_state=self.norm(states))

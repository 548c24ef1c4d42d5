"""Positions of VLMo: which row of the bias table a pair of tokens reads, and how tables follow the image
size.

The relative table has one row per kind of pair and one column per head of every block. Rows, for a grid of g
patches:

    0 .. (2g-1)²-1     patch i to patch j, by vertical and horizontal distance
    next 3             image [CLS] to any, any to image [CLS], image [CLS] to itself
    next 2             text to image, image to text (one value each: distance has no meaning between them)
    next 2·196-3       text token i to text token j, by distance
    next 3             text [CLS] to any, any to text [CLS], text [CLS] to itself
"""

from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from .configuration import TABLE_TEXT_LENGTH

ROWS_BESIDE_PATCHES = 3 + 2 + 2 * TABLE_TEXT_LENGTH


def table_rows(grid: int) -> int:
    """Rows of the relative-position table for a grid of `grid` × `grid` patches."""
    return (2 * grid - 1) ** 2 + ROWS_BESIDE_PATCHES


def relative_position_index(
    text_length: int, grid: int, *, image: bool = True, device: torch.device | str | None = None
) -> Tensor:
    """Row of the bias table for every pair of tokens of [text ; image].

    Args:
        text_length: Text tokens at the front, 0 for an image alone.
        grid: Patches along one side of the image the table is for.
        image: Whether the image tokens ([CLS] and grid² patches) follow.
        device: Where the index is made.

    Returns:
        Long tensor (N, N): row query, column key.
    """
    patches = (2 * grid - 1) ** 2
    between = patches + 3  # text to image; image to text is the row after
    last = table_rows(grid)

    axis = torch.arange(grid, device=device)
    y, x = axis.repeat_interleave(grid), axis.repeat(grid)
    distance = (y[:, None] - y + grid - 1) * (2 * grid - 1) + x[:, None] - x + grid - 1
    image_index = _with_cls(distance, patches)  # (1+g², 1+g²)
    if text_length == 0:
        return image_index

    place = torch.arange(text_length - 1, device=device)
    distance = place - place[:, None] + TABLE_TEXT_LENGTH - 2 + between + 2
    text_index = _with_cls(distance, last - 3)  # (L, L)
    if not image:
        return text_index

    to_image = text_index.new_full((text_length, image_index.shape[1]), between)
    to_text = text_index.new_full((image_index.shape[0], text_length), between + 1)
    return torch.cat([torch.cat([text_index, to_image], 1), torch.cat([to_text, image_index], 1)])


def _with_cls(index: Tensor, first: int) -> Tensor:
    """Puts a [CLS] token before the others: row `first`, column `first + 1`, corner `first + 2`."""
    index = F.pad(index, (1, 0, 1, 0), value=first)
    index[1:, 0] = first + 1
    index[0, 0] = first + 2
    return index


def resize_bias_table(table: Tensor, grid: int) -> Tensor:
    """Carries a relative-position table over to another image size, as BEiT and VLMo do.

    A larger grid has farther pairs than the table was trained on. The trained distances are spread over the
    new range in a geometric progression, so that near pairs keep nearly their own values, and a cubic spline
    in each direction reads the values between. Rows that do not concern patches are kept.

    Args:
        table: (rows, heads · blocks), for any square grid of at least 3 patches a side.
        grid: Patches along one side of the image to come.

    Returns:
        Table (`table_rows(grid)`, heads · blocks) of the same dtype; `table` itself if the grid is the same.

    Raises:
        ValueError: If the rows are not those of a square grid, or too few for a cubic spline.
    """
    source = isqrt(max(0, table.shape[0] - ROWS_BESIDE_PATCHES))
    if source**2 != table.shape[0] - ROWS_BESIDE_PATCHES or source % 2 == 0:
        raise ValueError(f"a relative-position table with {table.shape[0]} rows belongs to no square image")
    target = 2 * grid - 1
    if source == target:
        return table
    if source < 5:
        raise ValueError(f"a relative-position table of {source} × {source} distances is too small to resize")
    old = geometric_positions(source, target)
    new = torch.arange(target, dtype=torch.float64) - target // 2
    spline = spline_matrix(old, new)  # (target, source)
    patches = table[: source**2].double().reshape(source, source, -1)
    patches = torch.einsum("ay,yxc,bx->abc", spline, patches, spline).flatten(0, 1)
    return torch.cat([patches.to(table.dtype), table[source**2 :]])


def geometric_positions(source: int, target: int) -> Tensor:
    """Where the `source` trained distances lie among the `target` new ones, counted from the middle.

    The steps away from the middle are 1, q, q², … with q in [1.01, 1.5] such that the last one reaches the
    edge of the new range (BEiT's bisection, to 1e-6).

    Returns:
        Increasing float64 tensor (source,), symmetric around 0.
    """
    count, reach = source // 2, target // 2
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        low, high = (low, q) if sum(q**k for k in range(count)) > reach else (q, high)
    away = torch.tensor([q**k for k in range(count)], dtype=torch.float64).cumsum(0)
    return torch.cat([-away.flip(0), away.new_zeros(1), away])


def spline_matrix(x: Tensor, t: Tensor) -> Tensor:
    """The cubic spline through any values at `x`, read at `t`, as a linear map of these values.

    Not-a-knot ends (the first two and the last two pieces are one polynomial each), which is what FITPACK and
    with it scipy use. Outside of `x` the value at the nearest end is taken.

    Args:
        x: Increasing positions (n,) with n ≥ 4.
        t: Positions to read (m,).

    Returns:
        Matrix (m, n) with `spline(t) = matrix @ values`.
    """
    n, h = len(x), x.diff()
    # `curvature @ values` are the second derivatives at x: `left @ second derivatives = right @ values`.
    left, right = x.new_zeros(n, n), x.new_zeros(n, n)
    for i in range(1, n - 1):
        left[i, i - 1], left[i, i], left[i, i + 1] = h[i - 1], 2 * (h[i - 1] + h[i]), h[i]
        right[i, i - 1], right[i, i + 1] = 6 / h[i - 1], 6 / h[i]
        right[i, i] = -right[i, i - 1] - right[i, i + 1]
    left[0, :3] = torch.stack([h[1], -h[0] - h[1], h[0]])  # equal third derivatives on both sides of x[1] …
    left[-1, -3:] = torch.stack([h[-1], -h[-2] - h[-1], h[-2]])  # … and of x[-2]
    curvature = torch.linalg.solve(left, right)

    t = t.clamp(x[0], x[-1])
    piece = torch.searchsorted(x, t, right=True).clamp(1, n - 1) - 1
    h = h[piece][:, None]
    a = (x[piece + 1] - t)[:, None] / h  # weight of the left end of the piece, 1-a of the right
    b = 1 - a
    value = torch.eye(n, dtype=x.dtype)
    bend = (a**3 - a) * curvature[piece] + (b**3 - b) * curvature[piece + 1]
    return a * value[piece] + b * value[piece + 1] + bend * h**2 / 6


def resize_position_embedding(positions: Tensor, grid: int) -> Tensor:
    """Carries absolute image positions (1, 1+g², D) over to another grid: bicubic, [CLS] kept.

    Returns:
        Tensor (1, 1 + grid², D); `positions` itself if the grid is the same.

    Raises:
        ValueError: If the positions are not those of a square grid.
    """
    source = isqrt(positions.shape[1] - 1)
    if source**2 != positions.shape[1] - 1:
        raise ValueError(f"{positions.shape[1]} image positions belong to no square image")
    if source == grid:
        return positions
    cls, patches = positions[:, :1], positions[:, 1:]
    patches = patches.reshape(1, source, source, -1).permute(0, 3, 1, 2)  # (1, D, g, g)
    patches = F.interpolate(patches.double(), size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([cls, patches.flatten(2).transpose(1, 2).to(positions.dtype)], dim=1)

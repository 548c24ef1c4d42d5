"""Levels: what chosen blocks of a tower put out on the way, for heads that read several scales.

block 1 2 │ 3 4 │ 5 … 22 │ 23 24        stages: the head sees the states after 2, 4, 22 and 24 as well
          0     1        2       3      levels
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from hmmoe.streams.layouts import is_convolutional, main_tensor, to_tokens
from hmmoe.streams.lockstep import STREAM
from hmmoe.streams.points import find_blocks, spread, unwrap
from hmmoe.streams.widths import block_width


def level_name(stream: str, level: int) -> str:
    """The name under which a head finds a level among its states, such as "video/0"."""
    return f"{stream}/{level}"


def level_blocks(tower: nn.Module, count: int) -> list[int]:
    """Indices of the blocks that end a scale, at most `count`, the last ones where there are more.

    A scale ends where the next block has another parent or another width. In a tower of one scale, `count`
    blocks spread evenly over the depth stand in.

    Raises:
        ValueError: the tower has no list of blocks, or the width of a block cannot be read.
    """
    paths = find_blocks(tower)
    kinds = [(path.rpartition(".")[0], _width(tower, path)) for path in paths]
    ends = [i for i, kind in enumerate(kinds) if i + 1 == len(kinds) or kinds[i + 1] != kind]
    if len(ends) == 1:
        count = min(count, len(paths))
        return [point[""] for point in spread({"": len(paths)}, count)]
    return ends[-count:]


def level_widths(tower: nn.Module, blocks: Sequence[int]) -> list[int]:
    """Widths of the states after these blocks."""
    paths = find_blocks(tower)
    return [_width(tower, paths[i]) for i in blocks]


class Levels:
    """Keeps, during one forward, what the chosen blocks put out, the updates of adapters included.

    Args:
        blocks: stream -> indices of blocks; each is in range and they rise.

    Raises:
        ValueError: they are not.
    """

    def __init__(self, blocks: Mapping[str, Sequence[int]], towers: Mapping[str, nn.Module]) -> None:
        self.blocks = {m: list(chosen) for m, chosen in blocks.items()}
        for m, chosen in self.blocks.items():
            depth = len(find_blocks(towers[m]))
            if chosen != sorted(set(chosen)) or not chosen or chosen[0] < 0 or chosen[-1] >= depth:
                raise ValueError(
                    f"levels[{m!r}] must be rising block numbers from 0 to {depth - 1}, got {chosen}"
                )
        # One object for the life of the model: code compiled around a hook keeps the hook it was traced with.
        self.kept: dict[str, Tensor] = {}
        self.hooks = {m: [_Keep(self.kept, m, k) for k in range(len(c))] for m, c in self.blocks.items()}

    @contextmanager
    def listen(self, towers: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
        """Collect while the context lasts: `level_name` -> `(R, N, D)`."""
        handles = []
        for m, chosen in self.blocks.items():
            if m in towers:
                paths = find_blocks(towers[m])
                for hook, i in zip(self.hooks[m], chosen, strict=True):
                    block = towers[m].get_submodule(paths[i])
                    hook.width = block_width(block, f"block {i} of stream {m!r}")
                    handles.append(block.register_forward_hook(hook))
        try:
            yield self.kept
        finally:
            for handle in handles:
                handle.remove()
            self.kept.clear()


class _Keep:
    """Forward hook of one level."""

    def __init__(self, kept: dict[str, Tensor], stream: str, level: int) -> None:
        self.kept, self.stream, self.name = kept, stream, level_name(stream, level)
        self.width: int | None = None

    def __call__(self, block: nn.Module, args: tuple, output: Any) -> None:
        if STREAM.get() == self.stream:  # a tower may serve several streams
            self.kept[self.name] = to_tokens(main_tensor(output), self.width, is_convolutional(unwrap(block)))


def _width(tower: nn.Module, path: str) -> int:
    return block_width(tower.get_submodule(path), f"block {path}")

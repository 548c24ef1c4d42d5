"""PrefixCache: compute what is frozen once per row of the data set, not once per step.

    block 1 ── … ── block k ║ first adapter ── block k+1 ── …     ║: before it, every epoch is the same

With frozen towers and inputs that do not change between epochs (no augmentation), all blocks before the first
trainable weight of a tower answer from memory once every row of a batch is known; a tower without any
trainable weight answers as a whole. Where half of the blocks precede the first fusion point this halves the
cost of a step, and a linear head on frozen towers trains at the speed of the head.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from hmmoe.streams.intercept import intercept, release
from hmmoe.streams.layouts import main_tensor
from hmmoe.streams.lockstep import STREAM
from hmmoe.streams.points import find_blocks
from hmmoe.weights import check_safetensors


class PrefixCache:
    """Memory of the outputs of the leading frozen blocks, by the `index` given to the model's forward.

        with PrefixCache(model):
            trainer.train()

    Add adapters first: the prefix ends where they begin. Rows are kept in memory in their own precision or
    float32, whichever is smaller. `index` must name a row of the data for good: offset it per split.

    Args:
        model: a `MultimodalModel`, bare or inside PEFT's wrapper.

    Raises:
        ValueError: there is no `MultimodalModel` in `model`.
    """

    def __init__(self, model: nn.Module) -> None:
        from hmmoe.container import MultimodalModel

        found = next((m for m in model.modules() if isinstance(m, MultimodalModel)), None)
        if found is None:
            raise ValueError(f"PrefixCache needs a MultimodalModel, got {type(model).__name__}")
        self.container = found
        self.prefixes: dict[str, _Prefix] = {}

    def __enter__(self) -> "PrefixCache":
        self.attach()
        return self

    def __exit__(self, *error: object) -> None:
        self.detach()

    def attach(self) -> None:
        """Stand in front of the prefix blocks; what is remembered stays if the prefixes are the same."""
        self.detach()
        self.container.prefix_cache = self
        for name, tower in self.container.tower_modules().items():
            blocks, levels = prefix_blocks(tower), getattr(self.container, "levels", None)
            read = levels.blocks.get(name, []) if levels else []
            if read and blocks == [tower]:  # the head reads blocks inside, so these answer one by one
                blocks = [tower.get_submodule(path) for path in find_blocks(tower)]
            old = self.prefixes.get(name)
            if old is None or old.blocks != blocks:
                states_only = blocks == [tower] and not self.container.reads_whole_outputs
                self.prefixes[name] = _Prefix(name, blocks, read, states_only)
            self.prefixes[name].attach()

    def detach(self) -> None:
        """Let the blocks run again; what was remembered is kept for the next `attach`."""
        for prefix in self.prefixes.values():
            prefix.detach()
        self.container.prefix_cache = None

    @property
    def nbytes(self) -> int:
        """Memory taken by what is remembered."""
        return sum(self.nbytes_of(stream) for stream in self.prefixes)

    def nbytes_of(self, stream: str) -> int:
        """The same of one stream."""
        return sum(t.nbytes for row in self.prefixes[stream].rows.values() for t in row)

    @property
    def blocks(self) -> dict[str, list[str]]:
        """Stream -> paths of the blocks that answer from memory while attached; `[""]` is the whole tower."""
        found = {}
        for stream, tower in self.container.tower_modules().items():
            paths = {id(module): path for path, module in tower.named_modules()}
            prefix = self.prefixes[stream].blocks
            found[stream] = [paths[id(block)].removesuffix(".base_layer") for block in prefix]
        return found

    def knows(self, index: Tensor, present: Mapping[str, Tensor] | None = None) -> bool:
        """Are all these rows remembered, for every stream that has a prefix, where they have the stream?"""
        asked = {s: index[present[s]] if present and s in present else index for s in self.prefixes}
        return all(row in p.rows for s, p in self.prefixes.items() if p.blocks for row in asked[s].tolist())

    def save(self, stream: str, path: str | Path) -> None:
        """Write what is remembered of a stream, as safetensors: the rows' numbers and their tensors."""
        known = self.prefixes[stream].rows
        tensors = {str(i): torch.stack(rows) for i, rows in enumerate(zip(*known.values(), strict=True))}
        save_file({"index": torch.tensor(list(known)), **tensors}, str(path))

    def load(self, stream: str, path: str | Path) -> None:
        """Remember what `save` wrote, for the same tower, inputs, precision and `blocks`: the caller's word.

        The first batch still runs whole, to show how the blocks' outputs are built.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it is cut short or no safetensors file.
        """
        check_safetensors(Path(path))
        tensors = load_file(str(path))
        index = tensors.pop("index").tolist()
        leaves = [tensors[str(i)].unbind() for i in range(len(tensors))]
        self.prefixes[stream].rows |= {row: list(r) for row, *r in zip(index, *leaves, strict=True)}

    @contextmanager
    def batch(
        self, index: Tensor | None, streams: list[str], rows: Mapping[str, Tensor] | None = None
    ) -> Iterator[None]:
        """One forward of these streams with these rows (called by the container).

        Args:
            index: `(B,)`, as the model is given.
            streams: that run.
            rows: stream -> `(R,)` the samples that its tower runs, if not all.
        """
        every = None if index is None else index.tolist()
        prefixes = {s: self.prefixes[s] for s in streams}
        try:
            for s, prefix in prefixes.items():
                some = (rows or {}).get(s)
                prefix.begin(every if every is None or some is None else [every[i] for i in some.tolist()])
            yield
        finally:
            for prefix in prefixes.values():
                prefix.begin(None)


def prefix_blocks(tower: nn.Module) -> list[nn.Module]:
    """The leading blocks of a tower whose output no trainable weight and no adapter has touched.

    `[tower]` itself where there is neither; the block inside the first fusion point counts, since what a
    fusion point adds comes after its block.
    """
    touched = [path for path, module in tower.named_modules() if _touched(module)]
    if not touched:
        return [tower]
    try:
        paths = find_blocks(tower)
    except ValueError:
        return []
    order = {path: i for i, (path, _) in enumerate(tower.named_modules())}
    adds_after = {p: getattr(tower.get_submodule(p), "reads_output_only", False) for p in paths}
    limit = len(paths)
    for path in touched:
        block = next((b for b in paths if path == b or path.startswith(b + ".")), None)
        if block is not None:
            after = adds_after[block] and not path.startswith(block + ".base_layer.")
            limit = min(limit, paths.index(block) + after)
        elif order[path] < order[paths[-1]]:  # in front of the blocks (embeddings) or around them
            limit = 0
    found = [tower.get_submodule(path) for path in paths[:limit]]
    return [
        block.get_submodule("base_layer") if adds_after[p] else block
        for p, block in zip(paths, found, strict=False)
    ]


def _touched(module: nn.Module) -> bool:
    if "base_layer" in module._modules:
        return True
    return any(p is not None and p.requires_grad for p in module._parameters.values())


class _Prefix:
    """The remembered prefix of one tower; besides the last block's output, those that the head reads.

    Args:
        states_only: of what a block returns, only its states are wanted.
    """

    def __init__(self, stream: str, blocks: list[nn.Module], read: list[int], states_only: bool) -> None:
        self.stream, self.blocks, self.states_only = stream, blocks, states_only
        last = len(blocks) - 1
        self.kept = [*(i for i in read if i < last), last]
        self.rows: dict[int, list[Tensor]] = {}  # the kept blocks' tensors, one row of each per sample
        self.under_way: list[list[Tensor]] = []  # the same of the batch that is running
        self.forms: dict[int, tuple[Any, list[Any]]] = {}  # per block: how its output is built
        self.now: list[int] | None = None
        self.known = False
        self.answers = [_Answer(self, i) for i in range(len(blocks))]

    def attach(self) -> None:
        for block, answer in zip(self.blocks, self.answers, strict=True):
            intercept(block, answer)

    def detach(self) -> None:
        for block, answer in zip(self.blocks, self.answers, strict=True):
            release(block, answer)

    def begin(self, rows: list[int] | None) -> None:
        if rows is not None and any(_touched(m) for block in self.blocks for m in block.modules()):
            raise RuntimeError(
                f"adapters or trainable weights were added to the remembered part of tower {self.stream!r}; "
                "attach the PrefixCache after them"
            )
        self.now = rows
        self.known = (
            rows is not None
            and len(self.forms) == len(self.blocks)  # not after `load`, before a batch has run
            and all(row in self.rows for row in rows)
        )

    def run(self, i: int, inner: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        if self.now is None:
            return inner(*args, **kwargs)
        if self.known:
            return self.remember(i)
        output = inner(*args, **kwargs)
        if self.states_only:
            output = main_tensor(output)
        self.store(i, output)
        return output

    def store(self, i: int, output: Any) -> None:
        assert self.now is not None
        leaves, tree = tree_flatten(output)
        batch = len(self.now)
        form: list[Any] = []
        chunks = []
        for leaf in leaves:
            if isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) % batch == 0:
                rows = leaf.detach().reshape(batch, len(leaf) // batch, *leaf.shape[1:])
                form.append((rows.shape[1:], leaf.dtype, leaf.device))
                chunks.append(rows)
            else:
                form.append(leaf)
        old = self.forms.get(i)
        if old is not None and _shapes(old[1]) != _shapes(form):
            raise ValueError(
                f"PrefixCache needs rows of one shape, but tower {self.stream!r} gave {_shapes(form)} after "
                f"{_shapes(old[1])}; pad its inputs to a fixed length"
            )
        self.forms[i] = (tree, form)
        if i in self.kept:
            if i == self.kept[0]:
                self.under_way = [[] for _ in self.now]
            for b, row in enumerate(self.under_way):
                row += [_compact(chunk[b]) for chunk in chunks]
        if i == self.kept[-1]:
            self.rows |= zip(self.now, self.under_way, strict=True)

    def remember(self, i: int) -> Any:
        """A kept block's output from memory; of the others only something of the right shape."""
        assert self.now is not None
        tree, form = self.forms[i]
        leaves: list[Any] = []
        tensors = sum(len(_shapes(self.forms[k][1])) for k in self.kept if k < i)
        for leaf in form:
            if not isinstance(leaf, tuple):
                leaves.append(leaf)
                continue
            shape, dtype, device = leaf
            if i in self.kept:
                rows = torch.stack([self.rows[row][tensors] for row in self.now])
                leaves.append(rows.to(device=device, dtype=dtype).flatten(0, 1))
            else:
                leaves.append(
                    torch.zeros((), dtype=dtype, device=device).expand(len(self.now) * shape[0], *shape[1:])
                )
            tensors += 1
        return tree_unflatten(leaves, tree)


class _Answer:
    """A block's interceptor."""

    def __init__(self, prefix: _Prefix, i: int) -> None:
        self.prefix, self.i = prefix, i

    def __call__(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if STREAM.get() not in (None, self.prefix.stream):  # the tower serves another stream as well
            return inner(*args, **kwargs)
        return self.prefix.run(self.i, inner, args, kwargs)


def _compact(row: Tensor) -> Tensor:
    row = row.to("cpu", torch.float32) if row.dtype == torch.float64 else row.to("cpu")
    return row.clone()


def _shapes(form: list[Any]) -> list[tuple[int, ...]]:
    return [tuple(leaf[0]) for leaf in form if isinstance(leaf, tuple)]

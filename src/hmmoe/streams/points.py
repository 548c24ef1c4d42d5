"""Fusion points: which blocks a tower has, and which of them meet.

    tower A   1 2 3 4 5 6 7 8          tower A   [1 2][3 4 5 6][7 8]     stages
                │   │   │   │                     │ │   │   │   │ │
    tower B     1   2   3   4          tower B   [1 2][  3   4 ][5 6]

A point is a mapping stream -> index of its block; after that block the streams meet.
"""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from torch import nn

_LISTS = (nn.ModuleList, nn.Sequential)


def find_blocks(module: nn.Module) -> list[str]:
    """Paths of the repeated blocks of an encoder, in order of execution.

    The blocks are the items of the largest list of like modules, attention blocks before others (a
    convolutional stem is such a list too); where the items are stages or plain lists, their own items. Works
    on adapted towers as well.

    Raises:
        ValueError: the module has no list of like modules.
    """
    best: tuple[tuple[bool, int], str, nn.Module] | None = None
    inside: list[str] = []
    for path, candidate in module.named_modules():
        if any(path.startswith(outer) for outer in inside) or not _alike(candidate):
            continue
        inside.append(path + "." if path else "")
        score = (_attends(candidate), sum(p.numel() for p in candidate.parameters()))
        if best is None or score > best[0]:
            best = score, path, candidate
        if not path:
            break
    if best is None:
        raise ValueError(
            f"{type(module).__name__} has no list of like blocks; name them with streams={{name: glob}}"
        )
    _, path, found = best
    return [f"{path}.{inner}" if path else inner for inner in _descend(found)]


def _alike(module: nn.Module) -> bool:
    """A list whose items are of one class with parameters of their own."""
    if not isinstance(module, _LISTS) or not len(module):
        return False
    kinds = {type(unwrap(item)) for item in module}
    if len(kinds) > 1 or not any(True for _ in module[0].parameters()):
        return False
    return not issubclass(kinds.pop(), nn.Embedding)


def _descend(blocks: nn.Module) -> list[str]:
    paths: list[str] = []
    for name, item in blocks.named_children():
        inner = _stage_list(unwrap(item))
        paths += (
            [f"{name}.{inner}{rest}" for rest in _descend(unwrap(item).get_submodule(inner.rstrip(".")))]
            if (inner is not None)
            else [name]
        )
    return paths


def _stage_list(item: nn.Module) -> str | None:
    """Where a stage keeps its blocks ("" for a plain list, else "name."); None for a block."""
    if isinstance(item, _LISTS):
        return "" if _alike(item) and list(item[0].children()) else None
    if "Stage" not in type(item).__name__:
        return None
    lists = {n: c for n, c in item.named_children() if _alike(c)}
    if not lists:
        return None
    return max(lists, key=lambda n: sum(p.numel() for p in lists[n].parameters())) + "."


def _attends(module: nn.Module) -> bool:
    return any(
        "atten" in n.rsplit(".", 1)[-1].lower() or n.endswith("attn") for n, _ in module.named_modules()
    )


def unwrap(module: nn.Module) -> nn.Module:
    """The module inside any adapter wrappers."""
    while "base_layer" in module._modules:
        module = module.get_submodule("base_layer")
    return module


def match_blocks(module: nn.Module, pattern: str, stream: str) -> list[str]:
    """Paths of the modules that a glob names, in order: `*` is part of one name, `**` several names.

    Raises:
        ValueError: nothing matches; the sentence names the nearest path there is.
    """
    parts = re.split(r"(\*\*|\*)", pattern)
    regex = "".join({"**": ".+", "*": "[^.]+"}.get(part, re.escape(part)) for part in parts)
    paths = [re.sub(r"\.base_layer(?=\.|$)", "", path) for path, _ in module.named_modules() if path]
    paths = list(dict.fromkeys(p for p in paths if ".hmmoe_" not in p))
    found = [path for path in paths if re.fullmatch(regex, path)]
    if not found:
        if path := next((p for p in paths if pattern.endswith(f".{p}")), None):
            near = path
        else:
            close = get_close_matches(pattern, paths, n=1, cutoff=0.0)
            near = close[0] if close else ""
        raise ValueError(
            f"streams[{stream!r}] = {pattern!r} matches no module of {type(module).__name__}; "
            f"nearest is {near!r}"
        )
    return found


def spread(depths: Mapping[str, int], k: int | None = None) -> list[dict[str, int]]:
    """`k` points spread evenly over towers of different depth, the last block of each always among them.

    Args:
        depths: stream -> number of blocks.
        k: number of points; None for as many as the shallowest has blocks.

    Raises:
        ValueError: `k` is below 1 or above the depth of the shallowest.

    >>> spread({"image": 4, "audio": 2})
    [{'image': 1, 'audio': 0}, {'image': 3, 'audio': 1}]
    """
    if not depths:
        raise ValueError("depths names no stream")
    shallow = min(depths, key=lambda m: depths[m])
    k = depths[shallow] if k is None else k
    if not 1 <= k <= depths[shallow]:
        raise ValueError(
            f"points must be between 1 and {depths[shallow]}, the depth of stream {shallow!r}, got {k}"
        )
    return [{m: -(-(j + 1) * n // k) - 1 for m, n in depths.items()} for j in range(k)]


def stages(paths: Sequence[str]) -> list[int]:
    """Numbers of blocks that share a parent: the depths of a staged tower, one number for a flat one.

    >>> stages(["s.0.b.0", "s.0.b.1", "s.1.b.0"])
    [2, 1]
    """
    parents = [path.rpartition(".")[0] for path in paths]
    return [parents.count(parent) for parent in dict.fromkeys(parents)]


def spread_by_stage(depths: Mapping[str, Sequence[int]]) -> list[dict[str, int]]:
    """`spread` within each stage, where all towers have the same number of stages.

    >>> spread_by_stage({"image": [1, 2], "audio": [1, 1]})
    [{'image': 0, 'audio': 0}, {'image': 2, 'audio': 1}]
    """
    counts = {m: len(s) for m, s in depths.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"streams must have the same number of stages, got {counts}")
    points: list[dict[str, int]] = []
    for stage in range(next(iter(counts.values()))):
        start = {m: sum(s[:stage]) for m, s in depths.items()}
        inner = spread({m: s[stage] for m, s in depths.items()})
        points += [{m: start[m] + i for m, i in point.items()} for point in inner]
    return points


def explicit(points: Sequence[Mapping[str, int]], depths: Mapping[str, int]) -> list[dict[str, int]]:
    """Points named block by block, checked; negative indices count from the end.

    Raises:
        ValueError: not of that form, an unknown stream, a block that is not there, or blocks that do not rise
            from point to point (towers run forward: such streams would wait for each other for ever).
    """
    from hmmoe.errors import unknown

    if not points:
        raise ValueError("points names no fusion point")
    done: list[dict[str, int]] = []
    last: dict[str, int] = {}
    for number, point in enumerate(points):
        if not isinstance(point, Mapping) or not all(type(index) is int for index in point.values()):
            raise ValueError(
                f"points[{number}] must be stream -> number of its block, e.g. {{{next(iter(depths))}: 0}}, "
                f"got {point!r}"
            )
        if not point:
            raise ValueError(f"points[{number}] names no stream")
        found = {}
        for m, index in point.items():
            if m not in depths:
                raise ValueError(unknown("stream in points", m, depths))
            if not -depths[m] <= index < depths[m]:
                raise ValueError(
                    f"points[{number}] names block {index} of stream {m!r}, which has {depths[m]}"
                )
            found[m] = index % depths[m]
            if found[m] <= last.get(m, -1):
                raise ValueError(
                    f"points[{number}] names block {index} of stream {m!r}, which is not after "
                    "the point before"
                )
        last.update(found)
        done.append(found)
    return done

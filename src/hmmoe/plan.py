"""From a model and a config to a plan: which block of which stream stands at which fusion point, how wide."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from hmmoe.config import HMMoEConfig
from hmmoe.container import FrozenTowers
from hmmoe.errors import unknown
from hmmoe.streams.points import explicit, find_blocks, match_blocks, spread, spread_by_stage, stages, unwrap
from hmmoe.streams.widths import block_width


@dataclass
class Plan:
    """A resolved config.

    Attributes:
        blocks: stream -> paths of all its blocks.
        points: per fusion point stream -> index of its block.
        widths: per fusion point stream -> width of its states.
        kinds: stream -> class of its blocks, by name.
    """

    blocks: dict[str, list[str]]
    points: list[dict[str, int]]
    widths: list[dict[str, int]]
    kinds: dict[str, str]

    def at(self, path: str) -> list[tuple[int, str]]:
        """(fusion point, stream) pairs of the block at `path`."""
        return [
            (number, m)
            for number, point in enumerate(self.points)
            for m, index in point.items()
            if self.blocks[m][index] == path
        ]

    @property
    def paths(self) -> set[str]:
        """Paths of all blocks that stand at a fusion point."""
        return {self.blocks[m][index] for point in self.points for m, index in point.items()}


def make_plan(model: nn.Module, config: HMMoEConfig) -> Plan:
    """The plan of a config for a model.

    Raises:
        ValueError: streams, points or spans that do not fit, widths that cannot be read off the model, or
            adapters made
            for other towers (saying which stream, and what differs).
    """
    blocks = _blocks(model, config)
    depths = {m: len(paths) for m, paths in blocks.items()}
    made_for = config.depths or {}
    if made_for and set(made_for) - set(depths):
        raise ValueError(
            f"these adapters were made for streams {', '.join(sorted(made_for))}; "
            f"this model has {', '.join(sorted(depths))}"
        )
    for m, depth in sorted(made_for.items()):
        if depths[m] != depth:
            raise ValueError(
                f"these adapters were made for a tower {m!r} of {depth} blocks; this model's has {depths[m]} "
                f"({blocks[m][0]} …)"
            )
    kinds = {m: type(unwrap(model.get_submodule(paths[0]))).__name__ for m, paths in blocks.items()}
    for m, kind in sorted((config.blocks or {}).items()):
        if m in kinds and kinds[m] != kind:
            raise ValueError(
                f"these adapters were made for a tower {m!r} of {kind} blocks; this model's are {kinds[m]}"
            )
    points = _by_group(_points(config, blocks, depths), getattr(model, "groups", None))
    if config.spans is not None and any(len(set(point.values())) > 1 for point in points):
        raise ValueError(
            f"streams that are spans of one sequence meet in one block, got points={config.points}"
        )
    widths: list[dict[str, int]] = []
    for point in points:
        # which of the stream's own points this is
        turn = {m: sum(m in earlier for earlier in widths) for m in point}
        total = {m: sum(m in p for p in points) for m in point}
        widths.append(
            {m: _width(model, config, m, blocks[m][i], turn[m], total[m]) for m, i in point.items()}
        )
    return Plan(blocks, points, widths, kinds)


def resolved(config: HMMoEConfig, plan: Plan, rank: int) -> dict[str, Any]:
    """The fields that a plan settles, as they are saved."""
    streams = sorted({m for point in plan.points for m in point})
    return {
        "points": plan.points,
        "widths": {m: [w[m] for w in plan.widths if m in w] for m in streams},
        "depths": {m: len(plan.blocks[m]) for m in streams},
        "blocks": {m: plan.kinds[m] for m in streams},
        "rank": rank,
        "budget": None,
    }


def _blocks(model: nn.Module, config: HMMoEConfig) -> dict[str, list[str]]:
    if config.spans is not None:
        return _sequence_blocks(model, config)
    towers = model.tower_modules() if isinstance(model, FrozenTowers) else {}
    if config.streams is None:
        if not towers:
            raise ValueError(
                f"streams must map each modality to a glob of its blocks, since {type(model).__name__} is no "
                "MultimodalModel"
            )
        weighty = {m: tower for m, tower in towers.items() if any(True for _ in tower.parameters())}
        return {m: _in_tower(model, tower) for m, tower in weighty.items()}  # words as they are meet nobody
    for m in config.streams:
        if towers and m not in towers:
            raise ValueError(unknown("stream in streams", m, towers))
    return {m: match_blocks(model, glob, m) for m, glob in config.streams.items()}


def _sequence_blocks(model: nn.Module, config: HMMoEConfig) -> dict[str, list[str]]:
    assert config.spans is not None
    if config.streams is None:
        paths = find_blocks(model)
    else:
        if set(config.streams) != set(config.spans) or len(set(config.streams.values())) != 1:
            raise ValueError(
                f"streams that are spans of one sequence share one glob, got streams={config.streams} "
                f"for {sorted(config.spans)}"
            )
        paths = match_blocks(model, next(iter(config.streams.values())), next(iter(config.streams)))
    return {m: paths for m in config.spans}


def _in_tower(model: nn.Module, tower: nn.Module) -> list[str]:
    root = next(path for path, module in model.named_modules() if module is tower)
    return [f"{root}.{path}" for path in find_blocks(tower)]


def _points(
    config: HMMoEConfig, blocks: Mapping[str, list[str]], depths: Mapping[str, int]
) -> list[dict[str, int]]:
    if isinstance(config.points, int):
        return spread(depths, config.points)
    if config.points is not None:
        return explicit(config.points, depths)
    by_stage = {m: stages(paths) for m, paths in blocks.items()}
    if len({len(s) for s in by_stage.values()}) == 1 and len(next(iter(by_stage.values()))) > 1:
        return spread_by_stage(by_stage)
    return spread(depths)


def _by_group(points: list[dict[str, int]], groups: list[list[str]] | None) -> list[dict[str, int]]:
    """Streams that never see each other get points of their own: no expert waits for what cannot come."""
    if not groups or len(groups) == 1:
        return points
    split = [{m: point[m] for m in group if m in point} for point in points for group in groups]
    return [point for point in split if point]


def _width(model: nn.Module, config: HMMoEConfig, m: str, path: str, point: int, points: int) -> int:
    given = (config.widths or {}).get(m)
    if given is not None and len(given) not in (1, points):
        raise ValueError(f"widths[{m!r}] must hold one width per fusion point, {points}, got {len(given)}")
    said = None if given is None else given[point if len(given) > 1 else 0]
    try:
        read = block_width(model.get_submodule(path), f"stream {m!r} at {path}")
    except ValueError:
        if said is None:
            raise
        return said
    if said is not None and said != read and config.depths is not None:
        raise ValueError(
            f"these adapters were made for a stream {m!r} {said} wide; this model's is {read} wide at {path}"
        )
    return read if said is None else said

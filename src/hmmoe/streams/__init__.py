"""Where frozen towers meet: blocks, fusion points, layouts, lockstep, and the memory of frozen prefixes."""

from hmmoe.streams.layouts import to_tokens
from hmmoe.streams.lockstep import lockstep
from hmmoe.streams.points import find_blocks, match_blocks, spread, spread_by_stage, stages
from hmmoe.streams.prefix import PrefixCache
from hmmoe.streams.widths import block_width

__all__ = [
    "PrefixCache",
    "block_width",
    "find_blocks",
    "lockstep",
    "match_blocks",
    "spread",
    "spread_by_stage",
    "stages",
    "to_tokens",
]

"""Recall: what a run of towers leaves for streams that run later, the asymmetric way to meet.

    video  ──block 1──●── … ──block 24──●             video and audio meet; text is missing
    audio  ──block 1──●── … ──block 12──●
                      ┊ z, c            ┊ z, c        kept, in rank space
    text   ──block 1──●── … ──block 12──●             reads them; they do not change

A decoder that writes word by word runs many times over what it reads: the kept states are a cache, exact and
without a weight of their own, for as long as the media are the same.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from hmmoe.layer import Read
from hmmoe.mixing import masked_mean

if TYPE_CHECKING:
    from hmmoe.streams.lockstep import Link


@dataclass
class Recall:
    """Streams that have run, for `lockstep(known=)`.

    Attributes:
        reads: (adapter, fusion point) -> stream -> `Read`, a row per sample.
    """

    reads: dict[tuple[str, int], dict[str, Read]] = field(default_factory=dict)

    def put(self, link: "Link", reads: Mapping[str, Read], steps: int) -> None:
        """Keep what was met in `steps` rows per sample, side by side as one."""
        kept = self.reads.setdefault((link.adapter, link.point), {})
        for m, read in reads.items():
            if steps == 1:
                kept[m] = read
                continue
            z = read.z.unflatten(0, (-1, steps)).flatten(1, 2)
            mask = None if read.mask is None else read.mask.unflatten(0, (-1, steps)).flatten(1, 2)
            kept[m] = Read(z, masked_mean(z, mask), mask)

    def at(self, link: "Link") -> dict[str, Read]:
        """Stream -> what can be read of it at this point."""
        return self.reads.get((link.adapter, link.point), {})

    def only(self, streams: Collection[str]) -> "Recall":
        """Without the other streams."""
        return self._each(lambda m, read: read if m in streams else None)

    def rows(self, index: Tensor) -> "Recall":
        """Of the samples `index`, in that order, as `x[index]` has them."""
        return self._each(
            lambda _, r: Read(r.z[index], r.c[index], None if r.mask is None else r.mask[index])
        )

    def _each(self, change) -> "Recall":  # type: ignore[no-untyped-def]
        changed = {
            place: {m: change(m, read) for m, read in reads.items()} for place, reads in self.reads.items()
        }
        return Recall({place: {m: r for m, r in reads.items() if r} for place, reads in changed.items()})

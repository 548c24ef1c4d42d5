"""Image-text retrieval on the pack `flickr8k_1k`: photographs and their five human captions.

The protocol is that of MSRVTT 1k-A: all captions to train with, one caption per photograph to test with.
"""

from functools import cached_property
from typing import Any, ClassVar

from hmmoe.data.media import decode_image, png
from hmmoe.data.tables import table
from hmmoe.tasks.base import SPLITS, part
from hmmoe.tasks.pairs import Pairs


class Flickr8kPairs(Pairs):
    """See the module; items are named "split/row"."""

    name = "flickr8k_pairs"
    streams: ClassVar = {"image": "image", "text": "text"}
    groups: ClassVar = [["image"], ["text"]]
    metric = "t2i_r1"
    ways = ("t2i", "i2t")

    @cached_property
    def tables(self) -> dict[str, Any]:
        return {split: table(self.folder() / f"{split}.parquet") for split in SPLITS}

    @cached_property
    def captioned(self) -> dict[str, list[tuple[str, list[str]]]]:
        found = {}
        for split, frame in self.tables.items():
            texts = [list(captions) for captions in frame.captions]
            found[split] = [(f"{split}/{i}", t if split == "train" else t[:1]) for i, t in enumerate(texts)]
        return found

    def media(self, item: str) -> dict[str, Any]:
        split, _, row = item.partition("/")
        q = self.tables[split].iloc[int(row)]
        return {"image": decode_image(q.image, f"image {q.image_id}")}

    def part(self, stream: str, data: Any) -> dict[str, Any]:
        return part("image", "png", png(data)) if stream == "image" else super().part(stream, data)

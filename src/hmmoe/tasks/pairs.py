"""Retrieval of media by their captions, and of captions by media: what such tasks share.

A training row is a caption with its item (a video, a photograph); rows about the same item are no wrong
answers to each other. A test row is an item with its first caption; further captions of the item are rows of
text alone, so that an item is encoded once, however many captions it has. Media and text are groups of their
own and never see each other: a gallery is encoded once, whatever is asked.

    t2v   a caption asks for its item among all items of the split
    v2t   an item asks for a caption; the best placed of its captions counts

Similarities rank, cosines unless the model compares text and media itself (`head: own`); the same after dual
softmax, which looks at all queries at once, is reported apart under `dual_softmax_…`. The headline is R@1 of
t2v.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from hmmoe.options import about
from hmmoe.tasks.base import Options, Rows, Task, part
from hmmoe.tasks.joint_head import JointHead
from hmmoe.tasks.retrieval import dual_softmax, retrieval_scores

TEXT, MEDIA = "text", "media"


@dataclass
class PairsOptions(Options):
    joint: int = field(
        default=256, metadata=about("width of the space in which media and text meet", least=1)
    )
    temperature: float = field(default=0.01, metadata=about("of the dual softmax", above=0))


class Pairs(Task):
    """Text and one or more streams of media; the label is (item of the text, item of the media or -1).

    A subclass says which items there are, their captions and how their media are read. `validation_rows` and
    `test_rows` count items, each with all its captions.
    """

    metric = "t2v_r1"
    ways: ClassVar = ("t2v", "v2t")
    options_type: ClassVar[type[Options]] = PairsOptions
    similarity: Callable[[Tensor, Tensor], Tensor] = staticmethod(JointHead.similarity)  # as the head has it

    @cached_property
    def captioned(self) -> dict[str, list[tuple[str, list[str]]]]:
        """Split -> its items by name, with their captions, one or more."""
        raise NotImplementedError

    def media(self, item: str) -> dict[str, Any]:
        """`{stream: raw}` of an item, without the text.

        Raises:
            MediaError: they do not decode.
        """
        raise NotImplementedError

    @cached_property
    def places(self) -> dict[str, list[tuple[int, int]]]:
        """Split -> (item, caption) of each row. In evaluations the first captions come first."""
        found = {}
        for split, items in self.captioned.items():
            pairs = [(i, c) for i, (_, captions) in enumerate(items) for c in range(len(captions))]
            found[split] = pairs if split == "train" else sorted(pairs, key=lambda pair: pair[1] > 0)
        return found

    def size(self, split: str) -> int:
        return len(self.places[split])

    def dataset(self, split: str) -> Rows:
        rows = super().dataset(split)
        limit = getattr(self.options, f"{split}_rows")
        if split == "train" or limit is None:
            return rows
        items = len(self.captioned[split])
        generator = torch.Generator().manual_seed(self.options.subset_seed)
        kept = set(torch.randperm(items, generator=generator)[:limit].tolist())
        rows.ids = torch.tensor([row for row, (item, _) in enumerate(self.places[split]) if item in kept])
        return rows

    def read(self, split: str, row: int) -> dict[str, Any]:
        item, caption = self.places[split][row]
        name, captions = self.captioned[split][item]
        paired = split == "train" or caption == 0
        media = self.media(name) if paired else dict.fromkeys(m for m in self.streams if m != TEXT)
        return {**media, TEXT: captions[caption], "label": np.array([item, item if paired else -1])}

    def head(self, widths: Mapping[str, int]) -> nn.Module:
        matching = getattr(self.system, "matching", None)
        if self.options.head == "own" and matching is not None:
            head = matching()
            self.similarity = head.similarity
            return head
        media = [m for m in self.streams if m != TEXT]
        return JointHead(widths, self.options.joint, self.options.head, sides={TEXT: (TEXT,), MEDIA: media})

    def metrics(self, logits: Mapping[str, Tensor], labels: Tensor) -> dict[str, float]:
        items, places = np.unique(labels[:, 1].numpy(), return_index=True)
        gallery = {item: i for i, item in enumerate(items[items >= 0].tolist())}
        shown = logits[MEDIA][torch.from_numpy(places[items >= 0])]  # (G, …), each item once
        asked = [item in gallery for item in labels[:, 0].tolist()]  # not where its media are broken
        similarity = self.similarity(logits[TEXT][torch.tensor(asked)], shown)  # (Q, G)
        of_query = [gallery[item] for item in labels[:, 0].tolist() if item in gallery]
        of_item: list[list[int]] = [[] for _ in gallery]
        for query, item in enumerate(of_query):
            of_item[item].append(query)
        scores: dict[str, float] = {}
        sides: list[tuple[str, Tensor, Any]] = [
            (self.ways[0], similarity, of_query),
            (self.ways[1], similarity.T, of_item),
        ]
        for way, table, truth in sides:
            ranked = {"": table, "dual_softmax_": dual_softmax(table, self.options.temperature)}
            for kind, ranks in ranked.items():
                found = retrieval_scores(ranks, truth)
                scores |= {f"{kind}{way}_{key}": value for key, value in found.items()}
        return scores

    def show(self, row: Mapping[str, Any], logits: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        prediction = None
        if logits is not None:
            alike = self.similarity(logits[TEXT][None], logits[MEDIA][None]).item()
            alone = all(row.get(m) is None for m in self.streams if m != TEXT)
            prediction = "text alone, it asks the gallery" if alone else f"similarity {alike:.2f} to the text"
        parts = [self.part(m, row[m]) for m in self.streams if row.get(m) is not None]
        return {
            "parts": parts,
            "target": None if row["label"] is None else f"item {row['label'][0]}",
            "prediction": prediction,
        }

    def part(self, stream: str, data: Any) -> dict[str, Any]:
        """A stream of a row for `show`."""
        return part(stream, "text", data)

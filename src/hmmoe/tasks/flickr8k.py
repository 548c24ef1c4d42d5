"""Retrieval of a photograph by its caption, read and spoken (Flickr8k with speech of the first caption).

    query = text and speech,  gallery = photographs,  see `hmmoe.tasks.joint_head`

The photograph is one group and caption and speech another: groups never see each other, so a gallery is
encoded once whatever is asked. A training row is a photograph with one of its captions; only the first is
spoken, rows of the others have no speech. A test row is a photograph, its first caption and the speech.
Headline: `mean_recall`, the mean of R@1, R@5 and R@10 in both directions, over the whole split.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor, nn

from hmmoe.data.media import decode_audio, decode_image, png, wav
from hmmoe.data.tables import table
from hmmoe.options import about
from hmmoe.tasks.base import SPLITS, Options, Task, part
from hmmoe.tasks.joint_head import JointHead
from hmmoe.tasks.retrieval import retrieval_scores

QUERY = ("text", "speech")


@dataclass
class Flickr8kOptions(Options):
    joint: int = field(
        default=256, metadata=about("width of the space in which query and image meet", least=1)
    )


class Flickr8k(Task):
    """Image, caption and the speech of first captions; the label is the photograph's number."""

    name = "flickr8k"
    streams: ClassVar = {"image": "image", "text": "text", "speech": "audio"}
    groups: ClassVar = [["image"], list(QUERY)]
    metric = "mean_recall"
    options_type = Flickr8kOptions

    @cached_property
    def tables(self) -> dict[str, Any]:
        return {split: table(self.folder() / f"{split}.parquet") for split in SPLITS}

    def size(self, split: str) -> int:
        return len(self.captions[split])

    @cached_property
    def captions(self) -> dict[str, list[tuple[int, int]]]:
        """Split -> (photograph, which of its captions) of each row."""
        found = {}
        for split, frame in self.tables.items():
            used = None if split == "train" else 1
            counts = [len(texts[:used]) for texts in frame.captions]
            found[split] = [(i, c) for i, count in enumerate(counts) for c in range(count)]
        return found

    def read(self, split: str, row: int) -> dict[str, Any]:
        photograph, caption = self.captions[split][row]
        q = self.tables[split].iloc[photograph]
        return {
            "image": decode_image(q.image, f"image {q.image_id}"),
            "text": q.captions[caption],
            "speech": None if caption else decode_audio(q.speech, f"speech of {q.image_id}"),
            "label": photograph,
        }

    def head(self, widths: Mapping[str, int]) -> nn.Module:
        sides = {"query": QUERY, "image": ("image",)}
        return JointHead(widths, self.options.joint, self.options.head, sides=sides)

    def metrics(self, logits: Mapping[str, Tensor], labels: Tensor) -> dict[str, float]:
        similarity = JointHead.similarity(logits["query"], logits["image"])  # (Q, G), both in row order
        truth = list(range(len(similarity)))
        scores: dict[str, float] = {}
        for direction, table_ in (("to_image", similarity), ("to_query", similarity.T)):
            scores |= {f"{direction}_{key}": value for key, value in retrieval_scores(table_, truth).items()}
        recalls = [scores[f"{d}_{k}"] for d in ("to_image", "to_query") for k in ("r1", "r5", "r10")]
        return {"mean_recall": sum(recalls) / len(recalls), **scores}

    def show(self, row: Mapping[str, Any], logits: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        cosine = None if logits is None else (logits["query"].flatten() @ logits["image"].flatten()).item()
        parts = [part("image", "png", png(row["image"])), part("text", "text", row["text"])]
        if row["speech"] is not None:
            parts.append(part("speech", "wav", wav(*row["speech"])))
        return {
            "parts": parts,
            "target": None if row["label"] is None else "this photograph",
            "prediction": None if cosine is None else f"cosine {cosine:.2f} between query and photograph",
        }

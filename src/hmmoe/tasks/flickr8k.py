"""Retrieval of a photograph by its caption, read and spoken (Flickr8k with speech of the first caption).

    query = W_text s(text) + W_speech s(speech),  gallery = W_image s(image),  score = cosine

where s is the normalised mean of a stream's tokens.

The photograph is one group and caption and speech another: groups never see each other, so a gallery is
    encoded once whatever is asked. Trained with symmetric InfoNCE over the batch (Oord et al., arXiv
    1807.03748; as in CLIP).
Headline: `mean_recall`, the mean of R@1, R@5 and R@10 in both directions, over the whole split.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hmmoe.data.media import decode_audio, decode_image, png, wav
from hmmoe.data.tables import table
from hmmoe.options import about
from hmmoe.tasks.base import SPLITS, Options, Task, part
from hmmoe.tasks.heads import summary
from hmmoe.tasks.retrieval import retrieval_scores

QUERY = ("text", "speech")


@dataclass
class Flickr8kOptions(Options):
    joint: int = field(
        default=256, metadata=about("width of the space in which query and image meet", least=1)
    )


class Flickr8k(Task):
    """Image, first caption and its speech; the label is the row's number."""

    name = "flickr8k"
    streams: ClassVar = {"image": "image", "text": "text", "speech": "audio"}
    groups: ClassVar = [["image"], list(QUERY)]
    metric = "mean_recall"
    options_type = Flickr8kOptions

    @cached_property
    def tables(self) -> dict[str, Any]:
        return {split: table(self.folder() / f"{split}.parquet") for split in SPLITS}

    def size(self, split: str) -> int:
        return len(self.tables[split])

    def read(self, split: str, row: int) -> dict[str, Any]:
        q = self.tables[split].iloc[row]
        return {
            "image": decode_image(q.image, f"image {q.image_id}"),
            "text": q.captions[0],
            "speech": decode_audio(q.speech, f"speech of {q.image_id}"),
            "label": row,
        }

    def head(self, widths: Mapping[str, int]) -> nn.Module:
        return JointHead(widths, self.options.joint, self.options.head)

    def metrics(self, logits: Mapping[str, Tensor], labels: Tensor) -> dict[str, float]:
        similarity = logits["query"].float() @ logits["image"].float().T  # (Q, G), both in row order
        truth = list(range(len(similarity)))
        scores: dict[str, float] = {}
        for direction, table_ in (("to_image", similarity), ("to_query", similarity.T)):
            scores |= {f"{direction}_{key}": value for key, value in retrieval_scores(table_, truth).items()}
        recalls = [scores[f"{d}_{k}"] for d in ("to_image", "to_query") for k in ("r1", "r5", "r10")]
        return {"mean_recall": sum(recalls) / len(recalls), **scores}

    def show(self, row: Mapping[str, Any], logits: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        cosine = None if logits is None else (logits["query"].flatten() @ logits["image"].flatten()).item()
        return {
            "parts": [
                part("image", "png", png(row["image"])),
                part("text", "text", row["text"]),
                part("speech", "wav", wav(*row["speech"])),
            ],
            "target": None if row["label"] is None else "this photograph",
            "prediction": None if cosine is None else f"cosine {cosine:.2f} between query and photograph",
        }


class JointHead(nn.Module):
    """Pooled streams projected to one space: `{"image": (B, P), "query": (B, P)}` of length 1.

    Args:
        widths: stream -> D_m; "image" and at least one of "text" and "speech".
        joint: P.
        kind: projections are "linear", or "mlp" with one hidden layer of 256.

    Raises:
        ValueError: a side has no stream.
    """

    def __init__(self, widths: Mapping[str, int], joint: int, kind: str = "linear"):
        super().__init__()
        if "image" not in widths or not set(QUERY) & set(widths):
            raise ValueError(
                f"retrieval needs the stream image and one of text and speech, got {', '.join(widths)}"
            )
        self.project = nn.ModuleDict({m: _projection(width, joint, kind) for m, width in widths.items()})
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # as in CLIP

    def forward(self, states: Mapping[str, Tensor], masks: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
        known = {m: self.project[m](summary(x, masks.get(m))) for m, x in states.items()}  # (B, P)
        query = [known[m] for m in QUERY if m in known]
        sides = {"query": sum(query[1:], query[0])} if query else {}
        if "image" in known:
            sides["image"] = known["image"]
        return {side: F.normalize(x.float(), dim=-1) for side, x in sides.items()}

    def loss(self, logits: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Symmetric cross-entropy of each query against all images of the batch and the reverse."""
        scores = logits["query"] @ logits["image"].T * self.log_scale.exp().clamp(max=100)  # (B, B)
        truth = torch.arange(len(scores), device=scores.device)
        return (F.cross_entropy(scores, truth) + F.cross_entropy(scores.T, truth)) / 2


def _projection(width: int, joint: int, kind: str) -> nn.Module:
    if kind == "linear":
        return nn.Linear(width, joint)
    return nn.Sequential(nn.Linear(width, 256), nn.GELU(), nn.Linear(256, joint))

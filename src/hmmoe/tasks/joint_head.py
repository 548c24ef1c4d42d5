"""Two sides that meet in one space, for retrieval: each is the sum of its streams' projections, of length 1.

    side = normalise( Σ_streams W_m s(x_m) ),  score = cosine,  s the normalised mean of a stream's tokens

Trained with symmetric InfoNCE over the batch (Oord et al., arXiv 1807.03748; as in CLIP).
"""

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hmmoe.tasks.heads import summary


class JointHead(nn.Module):
    """`{side: (B, P)}` of length 1, in the order of `sides`; zeros where a sample has no stream of a side.

    Args:
        widths: stream -> D_m; at least one stream of each side.
        joint: P.
        kind: projections are "linear", or "mlp" with one hidden layer of 256.
        sides: what asks and what is asked for -> its streams.

    Raises:
        ValueError: a side has no stream, or `kind` is "own".
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        joint: int,
        kind: str = "linear",
        *,
        sides: Mapping[str, Collection[str]],
    ):
        super().__init__()
        if kind == "own":
            raise ValueError(
                "head: own of retrieval needs a model that compares text and media itself, such as valor; "
                "give head: linear or mlp"
            )
        self.sides = {side: [m for m in streams if m in widths] for side, streams in sides.items()}
        if not all(self.sides.values()):
            wanted = " and ".join(" or ".join(streams) for streams in sides.values())
            raise ValueError(f"retrieval needs the streams {wanted}, got {', '.join(widths)}")
        self.joint = joint
        used = [m for streams in self.sides.values() for m in streams]
        self.project = nn.ModuleDict({m: _projection(widths[m], joint, kind) for m in used})
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # as in CLIP

    def forward(self, states: Mapping[str, Tensor], masks: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
        like = next(iter(states.values()))
        found = {}
        for side, streams in self.sides.items():
            x = like.new_zeros(len(like), self.joint)
            for m in streams:
                if m in states:
                    x = x + self._projected(m, states[m], masks.get(m))
            found[side] = F.normalize(x.float(), dim=-1)
        return found

    @staticmethod
    def similarity(a: Tensor, b: Tensor) -> Tensor:
        """Cosines (Q, G) of one side's (Q, P) and the other's (G, P)."""
        return a.float() @ b.float().T

    def _projected(self, stream: str, states: Tensor, mask: Tensor | None) -> Tensor:
        """(B, N, D) or, folded, (B, T, N, D) to (B, P); a sample without the stream adds nothing."""
        if states.dim() == 4:  # all items are one sequence
            states, mask = states.flatten(1, 2), None if mask is None else mask.flatten(1, 2)
        x = self.project[stream](summary(states, mask))
        return x if mask is None else x * mask.any(-1, keepdim=True)

    def loss(self, logits: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """Symmetric cross-entropy of each side against the other's of the batch.

        Args:
            logits: of the two sides.
            labels: the item that a row is about: (B,), or (B, 2) for the two sides apart with -1 where a row
                lacks the side, which leaves it out. Rows about one item are no wrong answers to each other.
        """
        a, b = logits.values()
        items = labels[:, 0] if labels.ndim == 2 else labels
        if labels.ndim == 2:
            whole = (labels >= 0).all(-1)
            a, b, items = a[whole], b[whole], items[whole]
        if not len(items):
            return a.sum()
        scores = a @ b.T * self.log_scale.exp().clamp(max=100)  # (B, B)
        twin = (items[:, None] == items).fill_diagonal_(False)
        scores = scores.masked_fill(twin, -torch.inf)
        truth = torch.arange(len(scores), device=scores.device)
        return (F.cross_entropy(scores, truth) + F.cross_entropy(scores.T, truth)) / 2


def _projection(width: int, joint: int, kind: str) -> nn.Module:
    if kind == "linear":
        return nn.Linear(width, joint)
    return nn.Sequential(nn.Linear(width, 256), nn.GELU(), nn.Linear(256, joint))

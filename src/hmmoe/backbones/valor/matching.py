"""VALOR's own comparison of texts with media (MGA) as the head of a retrieval task: `head: own`.

    text states  ─► words             ┐ unit vectors, each with a score of how much it counts
    frames, clips ─► items, joined     ┘ ─► s(text, media) of `objectives`

Projections, the scores' weights and the temperature are copies of the model's, which learn as task heads do.
"""

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn

from .objectives import FineFeatures, contrastive_loss, fine_similarity
from .parts import Alignment

KINDS = {"text": 1.0, "video": 1.0, "audio": 2.0}
GROUPS = ((1.0,), (2.0,), (1.0, 2.0))  # of media: T-V, T-A and T-AV
CHUNK = 2**26  # products of a word and an item at a time


class MatchingHead(nn.Module):
    """`{"text": (B, L, C + 2), "media": (B, N, C + 2)}`: a row's words, and its frames and clips together.

    An item is its unit vector, its score, and its kind: 1 for words and frames, 2 for clips, 0 or less where
    there is no item. A side that the whole batch lacks has N = 1; batches may be padded by -100.

    Args:
        own: the model's, copied.
        roles: stream -> "text", "video" or "audio".
    """

    def __init__(self, own: Alignment, roles: Mapping[str, str]) -> None:
        super().__init__()
        self.roles = dict(roles)
        self.align = deepcopy(own).requires_grad_(True)
        for role in KINDS.keys() - roles.values():  # nothing that never learns
            delattr(self.align, f"contra_head_{role[0]}")
            delattr(self.align, f"{role}_fine_weight")

    def forward(self, states: Mapping[str, Tensor], masks: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
        weight = self.align.contra_head_t.weight
        found: dict[str, list[Tensor]] = {"text": [], "media": []}
        with torch.autocast(weight.device.type, enabled=False):
            for m, role in self.roles.items():
                if m in states:
                    side = "text" if role == "text" else "media"
                    found[side].append(self._packed(role, states[m].to(weight.dtype), masks.get(m)))
        none = weight.new_zeros(len(next(iter(states.values()))), 1, len(weight) + 2)
        return {side: torch.cat(parts, 1) if parts else none for side, parts in found.items()}

    def _packed(self, role: str, x: Tensor, mask: Tensor | None) -> Tensor:
        if role != "text":
            if x.dim() == 3:  # a picture
                x, mask = x[:, None], None if mask is None else mask[:, None]
            mask = None if mask is None else mask[..., 0]  # (B, T, N), whole frames and clips
        items: FineFeatures = getattr(self.align, role)(x, mask)
        kind = KINDS[role] * items.mask
        return torch.cat([items.vectors, items.scores[..., None], kind[..., None].to(x.dtype)], -1)

    @staticmethod
    def similarity(text: Tensor, media: Tensor) -> Tensor:
        """Table (Q, G) of `text` (Q, L, C + 2) and `media` (G, N, C + 2)."""
        words, items = _items(text), _items(media)
        rows = max(1, CHUNK // (text.shape[1] * media.shape[0] * media.shape[1]))
        chunks = zip(*(field.split(rows) for field in words), strict=True)
        return torch.cat([fine_similarity(FineFeatures(*chunk), items) for chunk in chunks])

    def loss(self, logits: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """MGA's: symmetric InfoNCE at the model's temperature, mean over the groups that the batch has.

        Args:
            logits: of `forward`.
            labels: (B, 2), the item that a row's text and media are about; -1 leaves the row out. Rows about
                one item are no wrong answers to each other.
        """
        whole, items = (labels >= 0).all(-1), labels[:, 0]
        twin = (items[:, None] == items).fill_diagonal_(False)
        words = _items(logits["text"])
        losses = []
        with torch.autocast(twin.device.type, enabled=False):
            for group in GROUPS:
                media = _items(logits["media"], group)
                present = whole & media.mask.any(1)
                if present.any():
                    scores = fine_similarity(words, media) / self.align.temperature
                    losses.append(contrastive_loss(scores.masked_fill(twin, -torch.inf), 1.0, present))
        return torch.stack(losses).mean() if losses else words.vectors.sum() * 0


def _items(packed: Tensor, kinds: tuple[float, ...] = GROUPS[-1]) -> FineFeatures:
    """The items of these kinds."""
    mask = torch.isin(packed[..., -1], packed.new_tensor(kinds))
    return FineFeatures(packed[..., :-2], packed[..., -2], mask)

"""What VALOR is trained on, as functions of tensors (arXiv 2304.08345, sections on MGA and MGC).

MGA, multimodal grouping alignment. Text words t, media items m (frames, audio clips, or both), unit vectors:

    s(text, media) = 1/2 [ Σ_m w_m max_t ⟨m, t⟩  +  Σ_t w_t max_m ⟨t, m⟩ ],   w = softmax of learned scores
    loss           = symmetric InfoNCE over the batch at temperature τ, mean over the groups T-V, T-A, T-AV

MGC, multimodal grouping captioning: words hidden behind [MASK] are told from the words before them and the
media of a group; cross-entropy, mean over the groups.
"""

from collections.abc import Collection
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CAPTION_MASKING = 0.6  # share of a caption's words hidden in MGC
ANSWER_MASKING = 0.99  # the same for the answers of question answering
IGNORED = -100


class FineFeatures(NamedTuple):
    """What one side of the comparison brings: words of a text, frames of a video, clips of its sound.

    vectors: (B, N, C), each of length one. scores: (B, N), how much an item counts before the softmax.
    mask: bool (B, N), True = real item.
    """

    vectors: Tensor
    scores: Tensor
    mask: Tensor

    @staticmethod
    def join(parts: Collection["FineFeatures"]) -> "FineFeatures":
        """Items of several media side by side, e.g. frames and clips."""
        return FineFeatures(*(torch.cat(fields, dim=1) for fields in zip(*parts, strict=True)))

    def weights(self) -> Tensor:
        """(B, N), summing to one over the real items; all zero in a row without any."""
        weights = self.scores.masked_fill(~self.mask, float("-inf")).softmax(dim=1)
        return weights.masked_fill(~self.mask, 0.0)


def fine_similarity(text: FineFeatures, media: FineFeatures) -> Tensor:
    """Similarity (A, B) of A texts and B media; zero where either has no real item."""
    pairs = torch.einsum("alc,bnc->abln", text.vectors, media.vectors)
    lowest = torch.finfo(pairs.dtype).min
    best_item = pairs.masked_fill(~media.mask[None, :, None], lowest).amax(dim=3)  # (A, B, L)
    best_word = pairs.masked_fill(~text.mask[:, None, :, None], lowest).amax(dim=2)  # (A, B, N)
    by_words = torch.einsum("abl,al->ab", best_item, text.weights())
    by_items = torch.einsum("abn,bn->ab", best_word, media.weights())
    both = text.mask.any(dim=1)[:, None] & media.mask.any(dim=1)
    return torch.where(both, (by_words + by_items) / 2, 0.0)


def contrastive_loss(
    similarity: Tensor, temperature: Tensor | float, present: Tensor | None = None
) -> Tensor:
    """Symmetric InfoNCE of `similarity` (B, B) whose diagonal holds the matching pairs; a scalar.

    present: bool (B,), False for samples that lack the medium; they are neither positives nor negatives.
    Without any present sample the loss is zero.
    """
    if present is not None:
        similarity = similarity[present][:, present]
    if not len(similarity):
        return similarity.sum()
    logits = similarity / temperature
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def captioning_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits (B, L, V) where `labels` (B, L) is not -100; zero if there is no such place."""
    total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def mask_words(
    input_ids: Tensor,
    *,
    share: float,
    mask_id: int,
    vocab_size: int,
    keep_ids: Collection[int],
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Hide a share of the words: 80 % become [MASK], 10 % another word, 10 % stay; at least one per text.

    Args:
        input_ids: (B, L).
        share: chance of each word to be hidden, in (0, 1]; `CAPTION_MASKING` or `ANSWER_MASKING`.
        mask_id: id of [MASK].
        vocab_size: ids from which another word is drawn.
        keep_ids: ids never hidden, usually those of [CLS] and [PAD]; [SEP] is hidden too, so that generation
            learns where to stop.
        generator: source of randomness, on the device of `input_ids`.

    Returns:
        The text to be read and its labels, both (B, L), labels -100 where nothing was hidden.

    Raises:
        ValueError: if `share` is outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share} hides nothing or too much: give a number in (0, 1]")

    def draw() -> Tensor:
        return torch.rand(input_ids.shape, generator=generator, device=input_ids.device)

    words = ~torch.isin(input_ids, torch.tensor(sorted(keep_ids), device=input_ids.device))
    chance = draw().masked_fill(~words, 2.0)  # never under the share
    luckiest = chance == chance.amin(dim=1, keepdim=True)
    hidden = words & ((chance < share) | luckiest)
    labels = input_ids.masked_fill(~hidden, IGNORED)
    fate = draw()
    other = torch.randint(
        vocab_size, input_ids.shape, generator=generator, device=input_ids.device, dtype=input_ids.dtype
    )
    masked = input_ids.masked_fill(hidden & (fate < 0.8), mask_id)
    masked = torch.where(hidden & (fate >= 0.9), other, masked)
    return masked, labels

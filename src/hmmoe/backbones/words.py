"""Words as they are: a "tower" without weights, for a head that learns its own question encoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import ModelOutput

from hmmoe.backbones.inputs import whole
from hmmoe.backbones.tower import Tower

WORDS = "words"  # its name in a recipe
PAD = "<pad>"


def words(vocabulary: Sequence[str] | None = None, max_length: int = 14) -> Tower:
    """Words one by one as `last_hidden_state` (B, max_length, V) of zeros and one 1.

    Args:
        vocabulary: the V words, `<pad>` first; in a recipe the task's own where it has one. A word that is
            not in it is all zeros.
        max_length: words to which a text is padded or cut.

    Raises:
        ValueError: there is no vocabulary, or it does not begin with `<pad>`.
    """
    if vocabulary is None or len(vocabulary) < 2 or vocabulary[0] != PAD:
        raise ValueError(
            f"tower {WORDS!r} needs vocabulary, a list of words that begins with {PAD}; a task such as avqa "
            "has its own"
        )
    return Tower(
        OneHot(len(vocabulary)),
        WordInputs(tuple(vocabulary), whole("max_length", max_length)),
        "text",
        len(vocabulary),
    )


class OneHot(nn.Module):
    """Word numbers (B, N) to (B, N, V); -1, a word outside the vocabulary, to zeros."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> ModelOutput:
        known = F.one_hot(input_ids.clamp(min=0), self.size).float() * (input_ids >= 0)[..., None]
        return ModelOutput(last_hidden_state=known)


@dataclass
class WordInputs:
    """`input_ids` and `attention_mask` (B, max_length): words between blanks, no closing question mark."""

    vocabulary: tuple[str, ...]
    max_length: int

    @cached_property
    def numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.vocabulary)}

    def __call__(self, items: list[str]) -> dict[str, Tensor]:
        ids = torch.zeros(len(items), self.max_length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(items):
            found = [self.numbers.get(w, -1) for w in text.rstrip("?？").split()][: self.max_length]
            ids[row, : len(found)] = torch.tensor(found, dtype=torch.long)
            mask[row, : len(found)] = 1
        return {"input_ids": ids, "attention_mask": mask}

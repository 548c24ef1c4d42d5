"""Writing a text word by word: append [MASK], predict it, put the word in its place, go on.

    [CLS] [MASK]  →  [CLS] a [MASK]  →  [CLS] a dog [MASK]  →  …  →  [SEP] ends the text

The functions know nothing of the model: `next_word(rows, ids)` gives the logits (R, V) of the word that
follows ids (R, k) for the samples rows (R,), so an adapted model, or one with a cache, is served by the same
code.
"""

from collections.abc import Callable

import torch
from torch import Tensor

NextWord = Callable[[Tensor, Tensor], Tensor]


def generate(
    next_word: NextWord,
    batch: int,
    *,
    start_id: int,
    end_id: int,
    pad_id: int,
    num_beams: int = 1,
    max_tokens: int = 30,
    device: torch.device | str | None = None,
) -> Tensor:
    """The text of highest total log-probability that a beam finds, (batch, at most max_tokens).

    Every beam keeps its `num_beams` best texts by the plain sum of the words' log-probabilities (no length
    normalisation); a finished text stays among them with its sum. One beam is greedy choice.

    Args:
        next_word: maps (rows, ids) to logits, see above.
        batch: number of samples.
        start_id: id that every text begins with; not part of the result.
        end_id: id that ends a text; not part of the result.
        pad_id: fills the result after the last word.
        num_beams: texts kept at each step.
        max_tokens: steps at most, the end included.

    Raises:
        ValueError: if `num_beams` or `max_tokens` is below 1.
    """
    if num_beams < 1 or max_tokens < 1:
        raise ValueError(f"num_beams={num_beams} and max_tokens={max_tokens}: both must be at least 1")
    K = num_beams
    rows = torch.arange(batch, device=device).repeat_interleave(K)  # (B·K,)
    ids = torch.full((batch * K, 1), start_id, device=device)
    done = torch.zeros(batch * K, dtype=torch.bool, device=device)
    # at the start all beams of a sample are the same text: only the first counts
    total = torch.full((batch, K), float("-inf"), device=device)
    total[:, 0] = 0.0
    for _ in range(max_tokens):
        fresh = next_word(rows[~done], ids[~done]).float().log_softmax(dim=-1)
        V = fresh.shape[-1]
        logp = fresh.new_full((batch * K, V), float("-inf"))
        logp[~done] = fresh
        logp[done, pad_id] = 0.0  # a finished text has one continuation: itself
        total, best = (total[..., None] + logp.view(batch, K, V)).flatten(1).topk(K, dim=1)  # (B, K)
        parent = (best // V + torch.arange(batch, device=device)[:, None] * K).flatten()
        word = (best % V).flatten()
        ids = torch.cat([ids[parent], word[:, None]], dim=1)
        done = done[parent] | (word == end_id)
        if done.all():
            break
    first = ids.view(batch, K, -1)[:, 0, 1:]  # topk sorts: the best beam is the first
    return first.masked_fill((first == end_id).cumsum(dim=1) > 0, pad_id)

"""Retrieval: where does the right item stand when a gallery is sorted by similarity to the query?

    rank   1 + the number of wrong items at least as similar as the most similar right item
    r@k    percentage of queries of rank k or better

Ties count against us: a wrong item as similar as the right one stands before it, so a constant similarity
gets the worst rank and not the best. With several right items (all captions of a video) the best of them
counts, and right items never push each other down.

Protocols: MSRVTT 1k-A has one caption per video. On MSVD every test caption is a text-to-video query
(27,763 over 670 videos), and video-to-text takes the best rank over a video's captions.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def retrieval_scores(
    similarity: Tensor | np.ndarray, correct: Tensor | np.ndarray | Sequence[int] | Sequence[Collection[int]]
) -> dict[str, float]:
    """Recall in percent and ranks (from 1) of one direction; transpose `similarity` for the other.

    Args:
        similarity: (Q, G), the larger the more alike.
        correct: for each query the gallery index of its right item, or the indices of all of them.

    Returns:
        `{"r1", "r5", "r10", "median_rank", "mean_rank"}`

    Raises:
        ValueError: similarity is not (Q, G) or holds NaN, or correct does not name an item for each query.
    """
    scores = _matrix(similarity)
    right = torch.zeros_like(scores, dtype=torch.bool)  # (Q, G)
    right[_pairs(correct, *scores.shape)] = True
    best = scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)  # (Q, 1)
    rank = 1 + ((scores >= best) & ~right).sum(1).double()  # (Q,)
    recalls = {f"r{k}": 100 * (rank <= k).double().mean().item() for k in (1, 5, 10)}
    return recalls | {"median_rank": float(np.median(rank.cpu())), "mean_rank": rank.mean().item()}


def dual_softmax(similarity: Tensor | np.ndarray, temperature: float) -> Tensor:
    """Similarities (Q, G) weighed by how much each item prefers the query: S * softmax(S / T, dim=0) * Q.

    It looks at all queries of the test at once, so its results are reported apart from the plain ones.

    Raises:
        ValueError: similarity is not (Q, G) or holds NaN, or temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, it should be above 0")
    scores = _matrix(similarity)
    return scores * (scores / temperature).softmax(0) * len(scores)


def _pairs(correct: Collection, queries: int, gallery: int) -> tuple[list[int], list[int]]:
    """Query and gallery indices of all right pairs."""
    if len(correct) != queries:
        raise ValueError(f"correct has {len(correct)} entries for {queries} queries, give one for each")
    rows: list[int] = []
    columns: list[int] = []
    for query, items in enumerate(map(_plain, correct)):
        indices = [_plain(item) for item in items] if isinstance(items, Collection) else [items]
        if not indices or not all(isinstance(index, int) and 0 <= index < gallery for index in indices):
            raise ValueError(
                f"correct[{query}] is {items!r}, it should hold gallery indices from 0 to {gallery - 1}"
            )
        rows += [query] * len(indices)
        columns += indices
    return rows, columns


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (Tensor, np.ndarray, np.generic)) else value


def _matrix(similarity: Tensor | np.ndarray) -> Tensor:
    scores = torch.as_tensor(similarity).detach()
    if scores.ndim != 2 or not scores.numel():
        raise ValueError(f"similarity has the shape {tuple(scores.shape)}, it should be (queries, gallery)")
    if scores.isnan().any():
        raise ValueError("similarity holds NaN, look for a zero vector before the normalisation")
    return scores if scores.is_floating_point() else scores.double()

"""Retrieval ranks against sorting by hand, ties, several right answers, and the dual softmax."""

import numpy as np
import pytest
import torch

from hmmoe.tasks.retrieval import dual_softmax, retrieval_scores


def slow_ranks(similarity, correct):
    """Sort each row; among equals every wrong item comes first."""
    ranks = []
    for row, items in zip(similarity.tolist(), correct, strict=True):
        order = sorted(range(len(row)), key=lambda g: (-row[g], g in items))
        wrong_before = 0
        for g in order:
            if g in items:
                break
            wrong_before += 1
        ranks.append(1 + wrong_before)
    return np.array(ranks)


def table(ranks):
    recalls = {f"r{k}": 100 * (ranks <= k).mean() for k in (1, 5, 10)}
    return recalls | {"median_rank": np.median(ranks), "mean_rank": ranks.mean()}


def test_one_right_item_by_hand():
    similarity = torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.1, 0.3], [0.4, 0.3, 0.2], [0.0, 1.0, 0.5]])
    # ranks 1, 3, 3, 2
    assert retrieval_scores(similarity, [0, 1, 2, 2]) == pytest.approx(
        {"r1": 25.0, "r5": 100.0, "r10": 100.0, "median_rank": 2.5, "mean_rank": 2.25}
    )


@pytest.mark.parametrize("levels", [1000, 4])  # few levels: many ties
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64])
def test_equal_to_the_slow_reference(levels, dtype):
    generator = torch.Generator().manual_seed(levels)
    similarity = torch.randint(levels, (40, 30), generator=generator).to(dtype)
    single = torch.randint(30, (40,), generator=generator)
    several = [set(torch.randint(30, (1 + q % 4,), generator=generator).tolist()) for q in range(40)]
    expected = table(slow_ranks(similarity, [{int(g)} for g in single]))
    assert retrieval_scores(similarity, single) == pytest.approx(expected)
    assert retrieval_scores(similarity.numpy(), single.numpy()) == pytest.approx(expected)
    expected = table(slow_ranks(similarity, several))
    assert retrieval_scores(similarity, several) == pytest.approx(expected)
    assert retrieval_scores(similarity, [sorted(items) for items in several]) == pytest.approx(expected)


def test_a_constant_similarity_gets_the_worst_rank():
    scores = retrieval_scores(torch.zeros(20, 20), list(range(20)))
    assert scores == {"r1": 0.0, "r5": 0.0, "r10": 0.0, "median_rank": 20.0, "mean_rank": 20.0}


def test_right_items_do_not_push_each_other_down():
    similarity = torch.tensor([[0.1, 0.9, 0.9, 0.9]])
    assert retrieval_scores(similarity, [{1, 2, 3}])["mean_rank"] == 1.0
    assert retrieval_scores(similarity, [{0, 1}])["mean_rank"] == 3.0


def test_infinite_similarities_are_ranked():
    similarity = torch.tensor([[-torch.inf, 0.0], [-torch.inf, -torch.inf]])
    assert retrieval_scores(similarity, [0, 0])["mean_rank"] == 2.0


def test_dual_softmax_by_hand():
    similarity = torch.tensor([[1.0, 2.0], [3.0, 0.0]], dtype=torch.float64)
    expected = torch.empty_like(similarity)
    for q in range(2):
        for g in range(2):
            weights = np.exp(similarity[:, g].numpy() / 0.5)
            expected[q, g] = similarity[q, g] * weights[q] / weights.sum() * 2
    torch.testing.assert_close(dual_softmax(similarity, 0.5), expected)


def test_dual_softmax_changes_nothing_when_hot():
    similarity = torch.randn(6, 5, dtype=torch.float64)
    torch.testing.assert_close(dual_softmax(similarity, 1e9), similarity, atol=1e-7, rtol=1e-7)


def test_dual_softmax_frees_a_hub():
    # Item 0 is near to every query; each query also has an item of its own a little farther away.
    similarity = torch.full((4, 5), 0.1)
    similarity[:, 0] = 0.9
    similarity[torch.arange(4), torch.arange(1, 5)] = 0.8
    correct = [1, 2, 3, 4]
    assert retrieval_scores(similarity, correct)["r1"] == 0.0
    assert retrieval_scores(dual_softmax(similarity, 0.1), correct)["r1"] == 100.0


def test_wrong_input_is_named():
    similarity = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"similarity has the shape \(3,\)"):
        retrieval_scores(similarity[0], [0])
    with pytest.raises(ValueError, match="correct has 1 entries for 2 queries"):
        retrieval_scores(similarity, [0])
    for bad in (3, -1, set(), 0.5):
        with pytest.raises(ValueError, match=r"correct\[1\] is .* gallery indices from 0 to 2"):
            retrieval_scores(similarity, [0, bad])
    with pytest.raises(ValueError, match="holds NaN"):
        retrieval_scores(similarity * torch.nan, [0, 1])
    with pytest.raises(ValueError, match="temperature is 0"):
        dual_softmax(similarity, 0)

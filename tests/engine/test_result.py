"""Figures of finished runs: the paired test, the seconds of a step, the rival that counts."""

import math

import pytest
import torch

from hmmoe.engine.paired import best_rival, in_words, paired
from hmmoe.engine.result import step_seconds


def t_distribution_p(t: float, degrees: int) -> float:
    """Two-sided p of Student's t by summing its density, another way than the library's."""
    x = torch.linspace(0, abs(t), 200_001, dtype=torch.float64)
    log_c = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - 0.5 * math.log(degrees * math.pi)
    density = math.exp(log_c) * (1 + x**2 / degrees) ** (-(degrees + 1) / 2)
    return 1 - 2 * torch.trapezoid(density, x).item()


def test_the_paired_test_agrees_with_its_formula():
    ours, theirs = [80.0, 81.5, 79.0, 82.0, 80.5], [79.0, 80.0, 79.5, 80.0, 79.0]
    d = torch.tensor(ours, dtype=torch.float64) - torch.tensor(theirs, dtype=torch.float64)
    t = (d.mean() / (d.std() / math.sqrt(len(d)))).item()
    result = paired(ours, theirs)
    assert result["difference"] == pytest.approx(d.mean().item())
    assert result["p"] == pytest.approx(t_distribution_p(t, 4), rel=1e-3)
    half = 2.776445 * d.std().item() / math.sqrt(len(d))  # 97.5 % point of t with 4 degrees of freedom
    interval = (d.mean().item() - half, d.mean().item() + half)
    assert (result["low"], result["high"]) == pytest.approx(interval, abs=1e-5)


def test_there_is_no_p_for_one_seed_or_without_any_spread():
    for ours, theirs in (([80.0], [79.0]), ([80.0, 81.0], [79.0, 80.0]), ([80.0, 80.0], [80.0, 80.0])):
        assert paired(ours, theirs)["p"] is None


def test_a_test_in_words():
    assert in_words({"difference": 1.2, "p": 0.0312, "seeds": 5}) == "+1.20 (p 0.031)"
    assert in_words({"difference": -1.2, "p": 0.00002, "seeds": 5}) == "-1.20 (p < 0.001)"
    assert in_words({"difference": 1.2, "p": None, "seeds": 1}) == "+1.20 (needs 2 seeds)"
    assert in_words({"difference": 0.0, "p": None, "seeds": 3}) == "+0.00 (no spread)"


def test_the_best_rival_is_the_best_of_all_others():
    values = {"a": [3.0, 4.0], "b": [5.0, 1.0], "c": [0.0, 0.0]}
    assert [best_rival(values, m) for m in "abc"] == ["b", "a", "a"]
    assert best_rival({"a": [1.0]}, "a") is None


def test_seconds_of_a_step_leave_out_validation_and_the_start():
    train = [{"step": s, "seconds": t} for s, t in ((2, 9.0), (4, 10.0), (6, 11.0), (8, 30.0), (10, 31.2))]
    run = {"curves": {"train": train, "validation": [{"step": 6}]}, "seconds": 31.2, "steps": 10}
    assert step_seconds(run) == pytest.approx(0.5)
    run["curves"]["validation"] = [{"step": s} for s in (2, 4, 6, 8, 10)]
    assert step_seconds(run) == pytest.approx(3.12)

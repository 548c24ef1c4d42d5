"""What is tried: rates evenly spaced in the logarithm, options in all combinations, always as many trials."""

import pytest

from hmmoe.engine.trials import Trial, best, finalists, grid, trials_of


def test_rates_are_spaced_evenly_in_the_logarithm():
    assert grid(1e-3, 1) == [1e-3]
    assert grid(1e-3, 3) == [0.00032, 0.001, 0.0032]
    assert grid(1e-3, 2) == [0.00056, 0.0018]


def test_a_single_trial_is_the_method_as_it_is():
    assert trials_of("lora", 1e-3, {"alpha": [1, 2]}, 1) == [Trial(1e-3)]


@pytest.mark.parametrize("search", [{}, {"alpha": [1, 2]}, {"alpha": [1, 2], "dropout": [0.0, 0.1, 0.2]}])
def test_all_methods_have_as_many_trials_whatever_they_expose(search):
    trials = trials_of("lora", 1e-3, search, 6)
    assert len(trials) == len({str(t) for t in trials}) == len({t.folder("lora", 0) for t in trials}) == 6
    assert all(t.options.keys() == search.keys() for t in trials)


def test_trials_that_cannot_be_shared_out_are_refused():
    with pytest.raises(
        ValueError, match=r"among the 2 combinations of the recipe key search\.lora; take tune=4"
    ):
        trials_of("lora", 1e-3, {"alpha": [1, 2]}, 3)


def test_names_of_trials_and_of_their_folders():
    assert str(Trial(1e-3)) == "0.001"
    assert str(Trial(1e-3, {"alpha": 2})) == "0.001, alpha 2"
    assert Trial(1e-3).folder("lora", 4) == "lora-rate0.001-seed4"
    experts = Trial(1e-3, {"experts": {"affine": 6}})
    assert experts.folder("hmmoe", 0) == "hmmoe-experts-_affine_6_-rate0.001-seed0"


def test_the_best_is_the_first_of_the_highest_and_none_that_diverged():
    trials = [
        Trial(0.1, values={0: 3.0}),
        Trial(1.0, values={0: 5.0}),
        Trial(2.0, values={0: 5.0}),
        Trial(3.0),
    ]
    assert best("lora", trials) is trials[1]
    assert best("lora", [Trial(0.1)]).rate == 0.1
    with pytest.raises(ValueError, match="every trial of lora diverged"):
        best("lora", [Trial(0.1), Trial(1.0)])


def test_the_best_two_trials_are_judged_by_the_mean_of_their_seeds():
    low, middle, high, hot = (
        Trial(rate, values={0: v}) for rate, v in ((1, 4.0), (2, 6.0), (3, 5.0), (4, None))
    )
    assert finalists([low, middle, high, hot]) == [middle, high]
    middle.values |= {1: 2.0, 2: 1.0}
    high.values |= {1: 3.0, 2: 4.0}
    assert (middle.value, high.value) == (3.0, 4.0)
    assert best("lora", [low, middle, high, hot]) is high  # low was judged by one seed only
    high.values[2] = None
    assert best("lora", [low, middle, high, hot]) is middle

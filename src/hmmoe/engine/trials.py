"""What a comparison tries on validation before it runs: learning rates, and options that a recipe names.

Every method gets the same number of trials. One without options in the recipe's `search` spends
them all on learning rates; one with options has every combination of them at equally many rates.
One seed says little between neighbouring rates, so the best two trials are judged by the mean of several.
"""

import itertools
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SPACING = math.sqrt(10)  # between neighbouring learning rates of the grid
FINALISTS = 2  # trials that are judged by more than one seed
JUDGES = 3  # seeds that judge them


@dataclass
class Trial:
    """A learning rate and options of the method, and the metric that they reached on validation.

    Attributes:
        values: seed -> the metric, None where the loss stopped being finite.
    """

    rate: float
    options: dict[str, Any] = field(default_factory=dict)
    values: dict[int, float | None] = field(default_factory=dict)

    @property
    def value(self) -> float | None:
        """Mean over the seeds; None where it was not tried, or one of them diverged."""
        known = [value for value in self.values.values() if value is not None]
        return statistics.mean(known) if known and len(known) == len(self.values) else None

    @classmethod
    def chosen(cls, method: Mapping[str, Any]) -> "Trial":
        """What a method's runs were run with, by its entry in a comparison's result."""
        return cls(method["learning_rate"], method.get("options", {}))

    def __str__(self) -> str:
        """`0.001`, or `0.001, alpha 2`."""
        return ", ".join([f"{self.rate:g}", *(f"{key} {value}" for key, value in self.options.items())])

    def folder(self, method: str, seed: int) -> str:
        """The name of its run's folder in the comparison's."""
        options = "".join(f"-{key}-{value}" for key, value in self.options.items())
        return f"{method}{re.sub(r'[^-.+a-zA-Z0-9_]+', '_', options)}-rate{self.rate:g}-seed{seed}"


def trials_of(method: str, middle: float, search: Mapping[str, Sequence[Any]], count: int) -> list[Trial]:
    """`count` trials around the learning rate `middle`; a single one is that rate, without any search.

    Args:
        search: option -> the values to try.

    Raises:
        ValueError: `count` cannot be shared out evenly among the combinations.
    """
    if count == 1:
        return [Trial(middle)]
    combinations = [dict(zip(search, values, strict=True)) for values in itertools.product(*search.values())]
    if count % len(combinations):
        raise ValueError(
            f"tune={count} cannot be shared out among the {len(combinations)} combinations of the recipe key "
            f"search.{method}; take tune={-(-count // len(combinations)) * len(combinations)}"
        )
    rates = grid(middle, count // len(combinations))
    return [Trial(rate, options) for rate in rates for options in combinations]


def grid(middle: float, count: int) -> list[float]:
    """`count` rates around `middle`, evenly spaced in the logarithm, two digits each.

    >>> grid(1e-3, 3)
    [0.00032, 0.001, 0.0032]
    """
    return [float(f"{middle * SPACING ** (i - (count - 1) / 2):.2g}") for i in range(count)]


def finalists(trials: Sequence[Trial]) -> list[Trial]:
    """The best trials by what is known so far; the first, of the smallest rate, where several are alike."""
    done = [trial for trial in trials if trial.value is not None]
    return sorted(done, key=lambda trial: -(trial.value or 0.0))[:FINALISTS]


def best(method: str, trials: Sequence[Trial]) -> Trial:
    """The trial of the highest value among those judged by the most seeds; the first where several have it.

    Raises:
        ValueError: all diverged.
    """
    if len(trials) == 1:
        return trials[0]
    done = [trial for trial in trials if trial.value is not None]
    if not done:
        raise ValueError(f"every trial of {method} diverged; lower its learning_rate in the recipe")
    return max(done, key=lambda trial: (len(trial.values), trial.value or 0.0))

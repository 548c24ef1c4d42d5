"""One way to say that a name is not known, or a number too small."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(what: str, name: object, allowed: Iterable[object]) -> str:
    """The sentence for a name that is not one of `allowed`, with the nearest spelling where there is one.

    >>> unknown("expert", "afine", ["affine", "cross_attention"])
    "unknown expert 'afine', did you mean 'affine'? Allowed: affine, cross_attention"
    """
    words = sorted(str(a) for a in allowed)
    near = get_close_matches(str(name), words, n=1)
    hint = f", did you mean {near[0]!r}? " if near else "; "
    return f"unknown {what} {str(name)!r}{hint}Allowed: {', '.join(words) or 'none'}"


def at_least_one(**numbers: int | None) -> None:
    """Complain of the first of these arguments that is below 1; None is one that was not given.

    Raises:
        ValueError: naming it.
    """
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")

"""One way to say that a name is not known."""

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

"""A row's split and number as one integer, for labels whose metric has to look the row up again.

Metrics such as consistency over groups or agreement with ten people need more of a row than its class; what
they need is looked up by this number, so that nothing but the number goes through the model's batches.
"""

from hmmoe.tasks.base import SPLIT_OFFSET, SPLITS

SPAN = SPLIT_OFFSET[SPLITS[1]]


def place(split: str, row: int) -> int:
    """The number of a row; the same as its `index`."""
    return SPLIT_OFFSET[split] + row


def row_at(number: int) -> tuple[str, int]:
    """Split and row of a number.

    >>> row_at(place("test", 5))
    ('test', 5)
    """
    split, row = divmod(int(number), SPAN)
    return SPLITS[split], row

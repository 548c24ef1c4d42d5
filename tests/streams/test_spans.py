import pytest
import torch

from hmmoe.streams.spans import join, resolve, split

INPUTS = {"input_ids": torch.zeros(2, 4), "nested": {"pixel_values": torch.zeros(2, 3)}}


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ({"image": ["input_ids", None], "text": [0, "input_ids"]}, {"text": (0, 4), "image": (4, 9)}),
        ({"text": [1, 3], "image": [-2, None]}, {"text": (1, 3), "image": (7, 9)}),
        ({"text": [None, "pixel_values"], "image": [3, 3]}, {"text": (0, 3)}),
    ],
)
def test_boundaries_are_indices_ends_or_lengths_of_inputs(spans, expected):
    found = resolve(spans, INPUTS, 9)
    assert found == expected
    assert list(found) == list(expected)


@pytest.mark.parametrize(
    ("spans", "says"),
    [
        ({"text": [0, "input_idz"]}, "did you mean 'input_ids'"),
        ({"text": [0, 12]}, r"is \[0, 12\] in a sequence of 9"),
        ({"text": [0, 5], "image": ["input_ids", None]}, "'text' and 'image' overlap"),
    ],
)
def test_spans_that_do_not_fit_are_named(spans, says):
    with pytest.raises(ValueError, match=says):
        resolve(spans, INPUTS, 9)


def test_what_is_split_is_joined_with_zeros_between():
    x = torch.randn(2, 9, 3)
    places = {"a": (1, 3), "b": (3, 5), "c": (7, 8)}
    joined = join(split(x, places), places, x)
    inside = torch.tensor([0, 1, 1, 1, 1, 0, 0, 1, 0], dtype=torch.bool)
    torch.testing.assert_close(joined, x * inside[:, None])

import pytest
import torch

from hmmoe.streams.spans import Place, join, passes, resolve, split

INPUTS = {"input_ids": torch.zeros(2, 4), "nested": {"pixel_values": torch.zeros(2, 3)}}


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        (
            {"image": ["input_ids", None], "text": [0, "input_ids"]},
            {"text": Place(0, 4), "image": Place(4, 9)},
        ),
        ({"text": [1, 3], "image": [-2, None]}, {"text": Place(1, 3), "image": Place(7, 9)}),
        ({"text": [None, "pixel_values"], "image": [3, 3]}, {"text": Place(0, 3)}),
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
    places = {"a": Place(1, 3), "b": Place(3, 5), "c": Place(7, 8)}
    joined = join(split(x, places), places, x)
    inside = torch.tensor([0, 1, 1, 1, 1, 0, 0, 1, 0], dtype=torch.bool)
    torch.testing.assert_close(joined, x * inside[:, None])


def test_a_stream_of_one_pass_and_one_of_all():
    spans = {"text": [0, 2], "left": [2, 5, 0], "right": [2, 4, 1]}
    assert passes(spans) == 2
    places = resolve(spans, {}, 5)
    x = torch.randn(6, 5, 3)  # three samples, two passes each
    parts = split(x, places, 2)
    by_pass = x.unflatten(0, (3, 2))
    torch.testing.assert_close(parts["text"], torch.cat([by_pass[:, 0, :2], by_pass[:, 1, :2]], 1))
    torch.testing.assert_close(parts["left"], by_pass[:, 0, 2:])
    torch.testing.assert_close(parts["right"], by_pass[:, 1, 2:4])
    left_out = torch.ones(2, 5, 1)
    left_out[1, 4] = 0
    torch.testing.assert_close(join(parts, places, x, 2), (by_pass * left_out).flatten(0, 1))


def test_spans_of_different_passes_may_not_overlap_those_of_all():
    with pytest.raises(ValueError, match="'text' and 'right' overlap"):
        resolve({"text": [0, 3], "right": [2, 5, 1]}, {}, 5)

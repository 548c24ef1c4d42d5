"""AVE labels, decoding and accuracy against cases written out by hand."""

import pytest
import torch

from hmmoe.tasks.ave import CLASSES, HEADER, decode, read_annotations, rebuild_labels, segment_accuracy

LINES = ["Church bell&RUhOCu3LNXM&good&0&10", "Bark&MH3m4AwEcRY&good&6&8", "Church bell&VWi2ENBuTbw&good&0&0"]


def test_labels_are_rebuilt_from_the_annotations():
    labels, classes = rebuild_labels(read_annotations(LINES))
    assert classes == ("Church bell", "Bark")
    assert labels.tolist() == [[0] * 10, [2] * 6 + [1] * 2 + [2] * 2, [2] * 10]
    assert labels.dtype == torch.long


@pytest.mark.parametrize("head", [[HEADER], ["\ufeff" + HEADER + "\r\n"], []])
def test_header_line_ends_and_blank_lines_do_not_matter(head):
    assert read_annotations([*head, *(line + "\r\n" for line in LINES), "\n"]) == read_annotations(LINES)


def test_official_classes_are_in_the_order_of_first_appearance():
    rows = read_annotations([f"{name}&{number:011d}&good&0&10" for number, name in enumerate(CLASSES)])
    labels, classes = rebuild_labels(rows)
    assert classes == CLASSES
    assert len(CLASSES) == 28
    assert (CLASSES[0], CLASSES[27]) == ("Church bell", "Mandolin")
    assert labels[:, 0].tolist() == list(range(28))


def test_the_ave_mini_annotations_rebuild(shared):
    path = shared / "packs" / "ave_mini"
    rows = read_annotations((path / "Annotations.txt").read_text().splitlines())
    labels, classes = rebuild_labels(rows)
    assert len(classes) == 13
    assert len(rows) == 2912
    # One event per row at most, in one run; the pack states 49.8 % foreground.
    assert (labels != 13).float().mean().item() == pytest.approx(0.498, abs=5e-4)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Bark&abc&good&6", "line 2 is 'Bark&abc&good&6'"),
        ("Bark&abc&good&one&8", "with whole seconds"),
        ("Bark&abc&good&8&6", r"line 2 sets the event to 8\.\.6"),
        ("Bark&abc&good&5&11", r"0 <= start <= stop <= 10"),
        ("Bark&abc&good&-1&3", "with whole seconds"),
    ],
)
def test_contradicting_rows_are_named_with_their_line(line, message):
    with pytest.raises(ValueError, match=message):
        read_annotations([LINES[0], line])


def test_decoding_takes_the_event_where_it_is_relevant():
    relevance = torch.tensor(
        [[2.0, -2.0, 0.0], [0.1, 5.0, -0.1]]
    )  # a sigmoid of exactly one half is background
    events = torch.zeros(2, 28)
    events[0, 7], events[1, 27] = 1, 1
    assert decode(relevance, events).tolist() == [[7, 28, 28], [27, 27, 28]]


def test_accuracy_is_by_counts():
    labels = torch.arange(30).reshape(3, 10)
    predicted = labels.clone()
    predicted[0, :4] = -1
    assert segment_accuracy(predicted, labels) == 26 / 30
    # The mean over uneven batches would be another number.
    halves = [segment_accuracy(predicted[:2], labels[:2]), segment_accuracy(predicted[2:], labels[2:])]
    assert sum(halves) / 2 != 26 / 30


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"predicted \(2, 10, 29\) and labels \(2, 10\)"):
        segment_accuracy(torch.zeros(2, 10, 29), torch.zeros(2, 10))
    with pytest.raises(ValueError, match="at least one segment"):
        segment_accuracy(torch.zeros(0, 10), torch.zeros(0, 10))
    with pytest.raises(ValueError, match=r"relevance \(2, 10, 1\)"):
        decode(torch.zeros(2, 10, 1), torch.zeros(2, 28))

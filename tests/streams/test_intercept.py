import copy
import pickle

import torch
from torch import nn

from hmmoe.streams.intercept import intercept, release


class Times:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, inner, *args, **kwargs):
        return self.factor * inner(*args, **kwargs)


def test_interceptors_stack_and_leave_in_any_order():
    module, x = nn.Identity(), torch.ones(1)
    two, three = Times(2), Times(3)
    intercept(module, two)
    intercept(module, three)
    assert module(x) == 6
    release(module, two)
    assert module(x) == 3
    release(module, three)
    assert module(x) == 1
    assert "forward" not in module.__dict__
    release(module, three)


def test_copies_and_pickles_answer_for_themselves():
    module, x = nn.Linear(1, 1), torch.ones(1, 1)
    intercept(module, Times(2))
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(copied(x), module(x))
        with torch.no_grad():
            copied.weight.fill_(5)
            copied.bias.zero_()
        assert copied(x) == 10
        assert module(x) != 10

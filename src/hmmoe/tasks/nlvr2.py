"""Reasoning about two photographs on NLVR2 (Suhr et al., ACL 2019): is the sentence true of the pair?

accuracy      share of examples judged right
consistency   share of groups whose examples are all judged right; a group is one sentence
              over its pairs of photographs, so the examples whose identifiers `split-set-pair-sentence`
              agree but for the pair
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np


def nlvr2_scores(
    predictions: Sequence[bool], labels: Sequence[bool], identifiers: Sequence[str]
) -> dict[str, float]:
    """Accuracy and consistency, in 0..1.

    Args:
        predictions, labels: true or false for each example, as bool or 0/1.
        identifiers: the identifier of each, such as `dev-850-0-1`.

    Raises:
        ValueError: the lengths differ or are 0, a judgement is not true or false, an identifier has not four
            fields or occurs twice.
    """
    if not 0 < len(predictions) == len(labels) == len(identifiers):
        raise ValueError(
            f"predictions, labels and identifiers have {len(predictions)}, {len(labels)} and "
            f"{len(identifiers)} entries, give one of each per example"
        )
    name, times = Counter(identifiers).most_common(1)[0]
    if times > 1:
        raise ValueError(f"identifiers holds {name!r} {times} times, give every example once")
    right = _truths("predictions", predictions) == _truths("labels", labels)
    groups: dict[str, bool] = {}
    for name, judged in zip(map(group_of, identifiers), right, strict=True):
        groups[name] = groups.get(name, True) and bool(judged)
    return {"accuracy": float(right.mean()), "consistency": sum(groups.values()) / len(groups)}


def group_of(identifier: str) -> str:
    """The identifier without its pair field.

    >>> group_of("dev-850-2-1")
    'dev-850-1'
    """
    fields = identifier.split("-")
    if len(fields) != 4:
        raise ValueError(f"identifier {identifier!r} should read split-set-pair-sentence, as in dev-850-0-1")
    return "-".join([*fields[:2], fields[3]])


def _truths(name: str, values: Sequence[bool]) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise ValueError(
            f"{name} should hold true or false, take the argmax of logits and compare text first"
        )
    return array.astype(bool)

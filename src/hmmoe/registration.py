"""HMMOE as a member of PEFT's closed enum of methods: the one place that reaches into PEFT's own types."""

from peft.utils.peft_types import PeftType


def add_peft_type(name: str) -> PeftType:
    """The member of that name, added if it is not there yet.

    `PeftType` is an `Enum` of strings without a way to extend it, but PEFT asks it, by value, for the type of
    every config it reads. The member is made as `Enum` makes its own.
    """
    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    member._sort_order_ = len(PeftType.__members__)  # type: ignore[attr-defined]
    member.__objclass__ = PeftType  # type: ignore[attr-defined]
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)
    return member


HMMOE = add_peft_type("HMMOE")

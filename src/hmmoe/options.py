"""Dataclasses as options: help and limits beside each field, and mappings checked against them.

One source for recipes, methods, the command line's help and the reference page.
"""

import dataclasses
import types
import typing
from typing import Any, Union

from hmmoe.errors import unknown


def about(help: str, **limits: Any) -> dict[str, Any]:
    """Metadata of a dataclass field: its help and its limits, of `choices`, `above`, `least` and `most`."""
    return {"help": help, **limits}


def build(kind: type, tree: Any, path: str) -> Any:
    """Make dataclass `kind` of a mapping, naming `path` (dotted, may be empty) in every complaint."""
    if not isinstance(tree, dict):
        raise ValueError(f"recipe{f' key {path}' if path else ''} must be a mapping, got {tree!r}")
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in tree.items():
        at = f"{path}.{key}" if path else str(key)
        if key not in fields:
            raise ValueError(unknown(f"recipe key {at}:", key, fields))
        values[key] = _check(value, hints[key], fields[key].metadata, at)
    return kind(**values)


def describe(kind: type, path: str = "") -> list[tuple[str, str, str]]:
    """(key path, default, help) of every field, in order, for help and reference."""
    rows = []
    for f in dataclasses.fields(kind):
        at = f"{path}.{f.name}" if path else f.name
        if dataclasses.is_dataclass(f.type):
            rows += describe(typing.cast(type, f.type), at)
            continue
        made = f.default_factory
        default = f.default if made is dataclasses.MISSING else made()
        words = f" ({', '.join(f.metadata['choices'])})" if "choices" in f.metadata else ""
        rows.append((at, "" if default is None else str(default), f.metadata.get("help", "") + words))
    return rows


def difference(one: dict[str, Any], other: dict[str, Any], path: str = "") -> list[str]:
    """Dotted keys at which two recipe trees differ."""
    keys = []
    for key in [*one, *(k for k in other if k not in one)]:
        at = f"{path}.{key}" if path else str(key)
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            keys += difference(a, b, at)
        elif a != b:
            keys.append(at)
    return keys


def _check(value: Any, hint: Any, limits: typing.Mapping[str, Any], at: str) -> Any:
    """`value` as `hint` wants it (an int may stand for a float), within `limits`."""
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, at)
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    plain = tuple(typing.get_origin(k) or k for k in kinds)
    if float in plain and isinstance(value, int) and not isinstance(value, bool) and int not in plain:
        value = float(value)
    if not isinstance(value, plain) or (isinstance(value, bool) and bool not in plain):
        words = " or ".join("nothing" if k is type(None) else k.__name__ for k in plain)
        raise ValueError(f"recipe key {at} must be {words}, got {value!r}")
    if value is None:
        return None
    if "choices" in limits and value not in limits["choices"]:
        raise ValueError(unknown(f"value for recipe key {at}:", value, limits["choices"]))
    for word, bad in (
        ("above", lambda v, limit: not v > limit),
        ("least", lambda v, limit: not v >= limit),
        ("most", lambda v, limit: not v <= limit),
    ):
        if word in limits and bad(value, limits[word]):
            phrase = {"above": "above", "least": "at least", "most": "at most"}[word]
            raise ValueError(f"recipe key {at} must be {phrase} {limits[word]}, got {value!r}")
    return value

"""Reading the JSON files of an official data set, with errors that name the file and the entry."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hmmoe.data.media import MediaError


def read_json(file: Path) -> Any:
    """What the JSON file holds.

    Raises:
        MediaError: it is not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MediaError(f"the data file {file} is not JSON: {str(error).splitlines()[0]}") from error


def read_lines(file: Path) -> Iterator[tuple[str, Any]]:
    """Every line of a JSON-lines file with what to call it in an error; blank lines are passed over.

    Raises:
        MediaError: a line is not JSON; it is named.
    """
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield f"line {number} of {file}", json.loads(line)
        except ValueError as error:
            raise MediaError(f"line {number} of {file} is not JSON: {str(error).splitlines()[0]}") from error


def take(entry: Any, keys: Sequence[str], where: str) -> list[Any]:
    """The values of `keys` in a mapping.

    Raises:
        MediaError: it is no mapping or lacks one of them; `where` names it.
    """
    for key in keys:
        if not isinstance(entry, dict) or key not in entry:
            raise MediaError(f"{where} has no {key!r}; it should hold {', '.join(keys)}")
    return [entry[key] for key in keys]

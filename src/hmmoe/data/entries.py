"""Reading the text and JSON files of an official data set, with errors that name the file and the entry."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hmmoe.data.media import MediaError


def read_text(file: Path) -> str:
    """The file's text, without a byte-order mark.

    Raises:
        FileNotFoundError: it is not there.
        MediaError: it is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"the data file {file} does not exist") from None
    except UnicodeDecodeError as error:
        raise MediaError(f"{file} is not text: {error}") from None


def read_json(file: Path) -> Any:
    """What the JSON file holds.

    Raises:
        FileNotFoundError: it is not there.
        MediaError: it is not JSON.
    """
    text = read_text(file)
    try:
        return json.loads(text)
    except ValueError as error:
        raise MediaError(f"{file} is not JSON: {str(error).splitlines()[0]}") from None


def read_lines(file: Path) -> Iterator[tuple[str, Any]]:
    """Every line of a JSON-lines file with what to call it in an error; blank lines are passed over.

    Raises:
        FileNotFoundError: it is not there.
        MediaError: a line is not JSON; it is named.
    """
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield f"line {number} of {file}", json.loads(line)
        except ValueError as error:
            raise MediaError(f"line {number} of {file} is not JSON: {str(error).splitlines()[0]}") from None


def take(entry: Any, keys: Sequence[str], where: str) -> list[Any]:
    """The values of `keys` in a mapping.

    Raises:
        MediaError: it is no mapping or lacks one of them; `where` names it.
    """
    for key in keys:
        if not isinstance(entry, dict) or key not in entry:
            raise MediaError(f"{where} has no {key!r}; it should hold {', '.join(keys)}")
    return [entry[key] for key in keys]

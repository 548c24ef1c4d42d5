"""Files that are there whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file such that a kill leaves the old one or the new one whole; its folder is made too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)  # where the disk is full


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON that people can read, whole."""
    write_whole(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_own_json(path: Path, mend: str) -> Any:
    """What `write_json` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged; says the mend.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is damaged ({error}); {mend}") from None

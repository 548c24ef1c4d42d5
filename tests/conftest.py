"""Shared fixtures: deterministic seeds, one thread, and the folder of real towers and data where at hand."""

from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def _deterministic():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """`shared/` beside the checkout: real towers and data packs for testing, never part of the product."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip("needs the folder shared/data beside the checkout")
    return path

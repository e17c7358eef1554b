"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

SHARED = Path(os.environ.get("MRL_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with corpora and parity files that lies beside the checkout; tests that need it are skipped without it."""
    if not (SHARED / "parity").is_dir():
        pytest.skip(f"needs {SHARED} (parity files and corpora), which is not here; set MRL_SHARED to its place")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def no_width() -> None:
    """Tables are as wide as they need to be where ``COLUMNS`` is not set; processes of pytest-xdist have it."""
    os.environ.pop("COLUMNS", None)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks gain nothing from threads, and the machine may be busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

"""Fixtures for all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("MRL_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with corpora and parity files that lies beside the checkout; tests that need it are skipped without it."""
    if not (SHARED / "parity").is_dir():
        pytest.skip(f"needs {SHARED} (parity files and corpora), which is not here; set MRL_SHARED to its place")
    return SHARED

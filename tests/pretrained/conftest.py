"""A cache of its own for every test, small checkpoints, and a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mrl.pretrained import TransferSettings, write_official_checkpoint
from tests.pretrained.servers import Answers, serving


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's folder of checkpoints, moved into the test's folder; not created."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.delenv("MRL_MIRROR", raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    """A readable checkpoint (of no real network) of about 20 kB."""
    path = tmp_path / "content.pt"
    write_official_checkpoint(path, {"F": 60}, {"weight": torch.arange(5000, dtype=torch.float32)})
    return path.read_bytes()


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def server(answers: Answers, cache: Path) -> Iterator[str]:
    with serving(answers) as address:
        yield address


@pytest.fixture
def hasty() -> TransferSettings:
    """Patience for a server on this machine."""
    return TransferSettings(attempts=3, timeout_seconds=5.0, first_delay_seconds=0.01)

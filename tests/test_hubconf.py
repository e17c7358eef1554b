"""torch.hub from a clone, with and without the package installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pretrained.small import SMALL_CONFIG, small_network, write_small_checkpoint

ROOT = Path(__file__).resolve().parents[1]

# Runs in a process where the package is not installed: only what hubconf.py itself does can make it importable.
_UNINSTALLED = """
import importlib.util, json, os, sys
clone, entry_point, arguments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
source = os.path.realpath(os.path.join(clone, "src"))
sys.path[:] = [path for path in sys.path if os.path.realpath(path) != source]
assert importlib.util.find_spec("mrl") is None, "the package is still importable"
import torch
model = torch.hub.load(clone, entry_point, source="local", **arguments)
audio = torch.randn(8000, generator=torch.Generator().manual_seed(2))
with torch.inference_mode():
    embedding = model(audio)
print(json.dumps({"origin": sys.modules["mrl"].__file__, "type": type(model).__name__, "embedding": embedding.tolist()}))
"""


def load_uninstalled(entry_point: str, **arguments: Any) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", _UNINSTALLED, str(ROOT), entry_point, json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=os.sep,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert Path(result["origin"]).is_relative_to(ROOT / "src")
    return result


def audio() -> torch.Tensor:
    return torch.randn(8000, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "small.pt"
    write_small_checkpoint(path)
    return path


def test_entry_points() -> None:
    """What torch.hub.list would list; it can only be asked about a repository in its cache."""
    spec = importlib.util.spec_from_file_location("hubconf_under_test", ROOT / "hubconf.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert [name for name in dir(module) if callable(getattr(module, name)) and not name.startswith("_")] == [
        "redimnet",
        "redimnet_mrl",
    ]
    for name in module.dependencies:
        assert importlib.util.find_spec(name) is not None


def test_redimnet(weights: Path) -> None:
    model = torch.hub.load(str(ROOT), "redimnet", source="local", weights=str(weights))
    with torch.inference_mode():
        assert torch.equal(model(audio()), small_network()(audio()))


def test_redimnet_without_installation(weights: Path) -> None:
    result = load_uninstalled("redimnet", weights=str(weights))
    assert result["type"] == "ReDimNet"
    with torch.inference_mode():
        torch.testing.assert_close(torch.tensor(result["embedding"]), small_network()(audio()))


def test_redimnet_mrl_without_installation(weights: Path) -> None:
    width = SMALL_CONFIG["embed_dim"]
    result = load_uninstalled("redimnet_mrl", weights=str(weights), embed_dim=width, mrl_dims=[2, 4, width])
    assert result["type"] == "ReDimNetMRL"
    embedding = torch.tensor(result["embedding"])
    assert embedding.shape == (width,)
    torch.testing.assert_close(embedding.norm(), torch.tensor(1.0))

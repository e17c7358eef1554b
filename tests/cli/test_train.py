"""``mrl train`` and ``train.py``: what is printed, and exit statuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mrl.cli.main import run
from tests.training.conftest import voices, write_config  # noqa: F401  (a fixture)

ROOT = Path(__file__).resolve().parents[2]


def test_the_whole_job_from_one_file(voices: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    config = write_config(voices, tmp_path / "config.yaml", {})
    assert run(["train", "--config", str(config), "training.seed=3"]) == 0
    output = capfd.readouterr()
    assert "Epoch 2: Unfreezing backbone (Stage 1 → Stage 2)\n" in output.err
    assert "chance-level loss" in output.err and "Trainable parameters:" in output.err
    assert [line.split(":")[0] for line in output.out.splitlines()] == [
        "EER at 4 dimensions",
        "EER at 16 dimensions",
        "EER at 32 dimensions",
        "Model",
    ]
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved["training"]["seed"] == 3 and saved["training"]["clip_norm"] == 5.0


def test_dry_run_writes_nothing(voices: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    config = write_config(voices, tmp_path / "config.yaml", {})
    assert run(["train", "--config", str(config), "--dry-run"]) == 0
    assert "Chance-level loss:" in capfd.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_mistakes_are_one_line(voices: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    config = write_config(voices, tmp_path / "config.yaml", {})
    for arguments, message in [
        (["training.epochs=3"], "command line: unknown key training.epochs; did you mean training.num_epochs?"),
        (["training.device=cuda:99"], "training.device: 'cuda:99' cannot be used here"),
        (["data.train.folder=none"], "none is not a folder"),
        (["advanced.weights=none.pt"], "none.pt"),
    ]:
        assert run(["train", "--config", str(config), *arguments]) == 2
        # The synthetic speakers of training and validation have the same names, which is warned of.
        lines = capfd.readouterr().err.splitlines()
        errors = [line for line in lines if not line.startswith("warning: 3 of 5 training speakers")]
        assert len(errors) == 1 and errors[0].startswith("mrl train: error: ") and message in errors[0]


def test_train_py_is_the_same_command(voices: Path, tmp_path: Path) -> None:  # noqa: F811
    config = write_config(voices, tmp_path / "config.yaml", {})
    command = [sys.executable, str(ROOT / "train.py"), "--config", str(config), "model.embed_dimm=3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "mrl train: error: command line: unknown key model.embed_dimm; did you mean model.embed_dim?\n"

"""Metrics, environment and curves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mrl.errors import CheckpointError
from mrl.training.logs import MetricsFile, write_curves, write_environment


def test_metrics_survive_a_cut_line_and_nan(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    assert metrics.read() == []
    metrics.append({"kind": "step", "step": 1, "loss": float("nan"), "eer": {4: 0.5}})
    metrics.append({"kind": "step", "step": 2, "loss": 1.5})
    assert metrics.read()[0] == {"kind": "step", "step": 1, "loss": None, "eer": {"4": 0.5}}
    with metrics.path.open("a") as stream:
        stream.write('{"kind": "st')
    assert [record["step"] for record in metrics.read()] == [1, 2]
    metrics.path.write_text('{"broken\n{"kind": "step", "step": 2}\n')
    with pytest.raises(CheckpointError, match="line 1 is not JSON"):
        metrics.read()


def test_a_resumed_run_drops_what_it_will_write_again(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.append({"kind": "validation", "step": 0, "epochs_done": 0})
    for step in (1, 2, 3, 4):
        metrics.append({"kind": "step", "step": step})
        if step in (2, 4):
            metrics.append({"kind": "epoch", "step": step, "epochs_done": step // 2})
    metrics.cut_after(step=2, epoch_done=0)  # a checkpoint at step 2, before the epoch was closed
    assert [(record["kind"], record["step"]) for record in metrics.read()] == [("validation", 0), ("step", 1), ("step", 2)]


def test_curves_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    records = [
        {"kind": "step", "step": 1, "stage": 1, "loss": 2.0},
        {"kind": "step", "step": 2, "stage": 1, "loss": None},
        {"kind": "validation", "step": 2, "eer": {"4": 0.2, "8": 0.1}},
    ]
    for some in (records, []):
        write_curves(tmp_path / "curves.png", some)
        assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    write_environment(tmp_path / "environment.json")
    assert json.loads((tmp_path / "environment.json").read_text())["python"] == sys.version.split()[0]
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    write_curves(tmp_path / "none.png", records)
    assert not (tmp_path / "none.png").exists() and "redimnet-mrl[plots]" in caplog.text

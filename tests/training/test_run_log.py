"""TensorBoard and Weights & Biases: what is written is read back, also after a resume."""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from mrl.errors import MissingDependencyError, TrainingError
from mrl.training import run_training
from mrl.training.logs import MetricsFile, scalars_of
from tests.training.conftest import ConfigFactory, dying_after


def test_names_of_curves() -> None:
    step = {"kind": "step", "step": 3, "epoch": 0, "stage": 1, "loss": 2.0, "loss_4": 1.0, "gradient_norm": float("nan")}
    assert scalars_of(step) == {"train/loss": 2.0, "train/loss_4": 1.0, "train/stage": 1.0}
    validation = {"kind": "validation", "step": 3, "epochs_done": 1, "best": True, "eer": {"4": 0.5}, "num_target": 9}
    assert scalars_of(validation) == {"validation/eer/4": 0.5, "validation/best": 1.0}


def _expected(folder: Path) -> dict[str, dict[int, float]]:
    """The curves that ``metrics.jsonl`` tells of: name -> step -> value."""
    curves: dict[str, dict[int, float]] = {}
    for record in MetricsFile(folder / "metrics.jsonl").read():
        for name, value in scalars_of(record).items():
            curves.setdefault(name, {})[record["step"]] = value
    return curves


def test_tensorboard_has_every_curve_also_after_a_resume(make_config: ConfigFactory) -> None:
    config = make_config(**{"training.tensorboard": True})
    with dying_after(8):
        run_training(config)
    folder = run_training(config, resume="auto").run_folder
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    expected = _expected(folder)
    assert {"train/loss", "train/loss_4", "train/learning_rate", "train/gradient_norm"} <= set(expected)
    assert {"validation/eer/32", "validation/min_dcf/4", "epoch/loss"} <= set(expected)
    assert set(events.Tags()["scalars"]) == set(expected)
    for name, curve in expected.items():
        read = events.Scalars(name)
        assert [one.step for one in read] == list(curve), name
        assert [one.value for one in read] == pytest.approx(list(curve.values()), rel=1e-6), name


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs Weights & Biases (the extra logs)")
def test_wandb_offline_has_every_curve_and_resumes_under_one_name(
    make_config: ConfigFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    settings = {"project": "voices", "name": "small", "mode": "offline"}
    config = make_config(**{"training.wandb": settings})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of wandb's dependencies
        with dying_after(8):
            run_training(config)
        folder = run_training(config, resume="auto").run_folder
    found: dict[str, dict[int, float]] = {}
    names, settings_seen = set(), []
    files = sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime)
    assert len(files) == 2
    for file in files:
        for record in _wandb_records(file):
            if record.WhichOneof("record_type") == "run":
                names.add((record.run.project, record.run.display_name, record.run.run_id))
                entries = {item.key: item.value_json for item in record.run.config.update}
                settings_seen.append(json.loads(entries["training"])["batch_size"])
            if record.WhichOneof("record_type") == "history":
                row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
                for name, value in row.items():
                    if "/" in name:
                        found.setdefault(name, {})[row["step"]] = value
    assert names == {("voices", "small", (folder / "wandb-id").read_text().strip())}
    assert set(settings_seen) == {8}
    expected = _expected(folder)
    assert set(found) == set(expected)
    for name, curve in expected.items():
        assert found[name] == pytest.approx(curve), name


def _wandb_records(path: Path) -> list[Any]:
    """Read a ``.wandb`` file: LevelDB's log format: blocks of 32 KiB, records with a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, block = path.read_bytes(), 7, 1 << 15
    records, parts = [], b""
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            records.append(record)
            parts = b""
    return records


def test_disabled_and_missing_logs(make_config: ConfigFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    short = {"training.num_epochs": 1, "advanced.freeze_backbone_epochs": 1}
    config = make_config(**short, **{"training.wandb": {"project": "x", "mode": "disabled"}})
    assert not (run_training(config).run_folder / "wandb").exists()
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingDependencyError, match=r'training\.wandb needs wandb: pip install "redimnet-mrl\[logs\]"'):
        run_training(make_config(**short, **{"training.wandb": {"project": "x"}, "training.output_dir": "run-2"}))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependencyError, match=r"training\.tensorboard needs tensorboard"):
        run_training(make_config(**short, **{"training.tensorboard": True, "training.output_dir": "run-3"}))


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs Weights & Biases (the extra logs)")
def test_wandb_that_cannot_start_is_reported(make_config: ConfigFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    def refuse(**_: Any) -> None:
        raise wandb.errors.CommError("no way through")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(TrainingError, match=r"Weights & Biases cannot start \(no way through.*training\.wandb\.mode: offline"):
        run_training(make_config(**{"training.wandb": {"project": "x", "mode": "online"}}))

"""Real processes: SIGKILL, SIGTERM, and two that train together."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mrl.data import scan_speaker_folders, write_shards
from mrl.pretrained import write_official_checkpoint
from mrl.training import EXIT_INTERRUPTED, load_config, run_training
from mrl.training.checkpoints import CheckpointFolder
from mrl.training.logs import MetricsFile
from tests.backbone.networks import filled_network2, small_model_config2
from tests.training.conftest import write_config

ROOT = Path(__file__).resolve().parents[2]
CHANGES: dict[str, Any] = {
    "training.num_epochs": 6,
    "training.checkpoint_every_steps": 2,
    "training.batch_size": 4,
    "training.validate_every_epochs": 3,
    "advanced.freeze_backbone_epochs": 3,
}


def _start(config: Path, *more: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "train.py"), "--config", str(config), *more]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=settings)


def _start_two(config: Path, *more: str) -> list[subprocess.Popen[str]]:
    """Two processes of one job, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [_start(config, *more, **shared, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)]


def _wait_for_steps(process: subprocess.Popen[str], metrics: MetricsFile, steps: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if any(record["kind"] == "step" and record["step"] >= steps for record in metrics.read()):
            return
        time.sleep(0.02)
    process.kill()
    pytest.fail(f"the run did not reach step {steps}: {process.communicate()[0]}")


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    latest = CheckpointFolder(folder / "checkpoints", 1).latest()
    assert latest is not None
    return load_file(latest / "state.safetensors")


@pytest.mark.slow
def test_killed_and_terminated_runs_end_like_an_undisturbed_one(voices: Path, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "disturbed").mkdir()
    whole = run_training(load_config([write_config(voices, tmp_path / "whole" / "config.yaml", CHANGES)])).run_folder
    config = write_config(voices, tmp_path / "disturbed" / "config.yaml", CHANGES)
    run = tmp_path / "disturbed" / "run"

    killed = _start(config)
    _wait_for_steps(killed, MetricsFile(run / "metrics.jsonl"), random.randint(1, 12))
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL

    asked = _start(config, "--resume", "auto")
    done = CheckpointFolder(run / "checkpoints", 1).steps()[-1]
    _wait_for_steps(asked, MetricsFile(run / "metrics.jsonl"), done + 3)
    asked.send_signal(signal.SIGTERM)
    output = asked.communicate(timeout=60)[0]
    assert asked.returncode == EXIT_INTERRUPTED == 75, output
    assert "resume with --resume auto" in output

    last = _start(config, "--resume", "auto")
    output = last.communicate(timeout=120)[0]
    assert last.returncode == 0, output
    assert "EER at 32 dimensions" in output

    assert MetricsFile(run / "metrics.jsonl").read() == MetricsFile(whole / "metrics.jsonl").read()
    one, other = _tensors(run), _tensors(whole)
    assert [name for name in other if not torch.equal(one[name], other[name])] == []


def _assert_two_processes_train_like_one(voices: Path, folder: Path, changes: dict[str, Any], batch_size: int) -> Path:
    """Train with one process and with two that share its batches, compare all they log and all they end with; return the run."""
    runs = []
    for name, size in (("one", batch_size), ("two", batch_size // 2)):
        (folder / name).mkdir()
        runs.append(write_config(voices, folder / name / "config.yaml", {**changes, "training.batch_size": size}))
    alone = run_training(load_config([runs[0]])).run_folder
    processes = _start_two(runs[1])
    outputs = [process.communicate(timeout=180)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    run = runs[1].parent / "run"
    one, two = (MetricsFile(place / "metrics.jsonl").read() for place in (alone, run))
    assert [record["kind"] for record in one] == [record["kind"] for record in two]
    assert one[0]["kind"] == "validation" and one[0] == two[0]  # of the same weights: whoever embeds them, bit for bit
    for expected, found in zip(one, two, strict=True):
        if expected["kind"] == "step":
            assert expected.keys() == found.keys()  # the same dims sat out
            losses = [name for name in expected if name.startswith("loss")]
            assert [found[name] for name in losses] == pytest.approx([expected[name] for name in losses], rel=1e-4)
            assert found["accuracy_32"] == pytest.approx(expected["accuracy_32"], abs=1e-6)
    together, single = _tensors(run), _tensors(alone)
    for name, value in single.items():
        if name.startswith("system."):
            assert torch.allclose(together[name].float(), value.float(), atol=2e-4), name
    return run


@pytest.mark.slow
@pytest.mark.parametrize("family", ["redimnet", "redimnet2"])
def test_two_processes_train_like_one_with_the_same_global_batch(family: str, voices: Path, tmp_path: Path) -> None:
    changes = {**CHANGES, "training.num_epochs": 2, "advanced.freeze_backbone_epochs": 1}
    if family == "redimnet2":
        changes["advanced.weights"] = str(tmp_path / "second.pt")
        write_official_checkpoint(tmp_path / "second.pt", *filled_network2(small_model_config2()).to_official())
    run = _assert_two_processes_train_like_one(voices, tmp_path, changes, 6)
    kinds = [record["kind"] for record in MetricsFile(run / "metrics.jsonl").read()]
    assert kinds.count("validation") == 3
    assert kinds.count("step") == 8  # 20 crops in updates of 6: the last has 2, one for each process


@pytest.mark.slow
def test_two_processes_draw_the_same_dims_groups_and_masks_as_one(voices: Path, tmp_path: Path) -> None:
    """What is drawn at random in a step, from shards: dims that sit out, pairs of a speaker, babble, bands and frames hidden."""
    write_shards(scan_speaker_folders(voices / "train"), tmp_path / "shards", shard_megabytes=0.06)
    changes = {
        **CHANGES,
        "training.num_epochs": 2,
        "advanced.freeze_backbone_epochs": 1,
        "data.train": {"shards": str(tmp_path / "shards")},
        "data.crops_per_speaker": 2,
        "data.augmentation": {"babble_probability": 0.5, "spec_augment": {"frequency_masks": 1, "time_masks": 1}},
        "loss.type": "sphereface2",
        "loss.dim_dropout": 0.5,
    }
    run = _assert_two_processes_train_like_one(voices, tmp_path, changes, 8)
    steps = [record for record in MetricsFile(run / "metrics.jsonl").read() if record["kind"] == "step"]
    assert len(steps) == 6  # 20 crops in updates of 8: the last has two pairs, one for each process
    assert 0 < sum("loss_4" in record for record in steps) < 6


@pytest.mark.slow
def test_a_killed_process_ends_the_job_and_one_alone_goes_on_with_it(voices: Path, tmp_path: Path) -> None:
    changes = {**CHANGES, "training.num_epochs": 8, "advanced.freeze_backbone_epochs": 8}
    config = write_config(voices, tmp_path / "config.yaml", changes)
    metrics = MetricsFile(tmp_path / "run" / "metrics.jsonl")
    first, second = _start_two(config)
    _wait_for_steps(first, metrics, 4)
    second.send_signal(signal.SIGKILL)
    output = first.communicate(timeout=120)[0]
    second.communicate()
    assert first.returncode == 2, output
    (error,) = [line for line in output.splitlines() if "error:" in line]
    assert error.startswith("mrl train: error: process 0 of 2 has lost the others")
    assert "start all of them again (a training with --resume auto)" in error

    done = CheckpointFolder(tmp_path / "run" / "checkpoints", 1).steps()[-1]
    alone = _start(config, "--resume", "auto")
    output = alone.communicate(timeout=120)[0]
    assert alone.returncode == 0, output
    assert "An optimizer step now takes 4 crops (before: 8)" in output
    steps = [record["step"] for record in metrics.read() if record["kind"] == "step"]
    assert steps == list(range(1, steps[-1] + 1)) and steps[-1] > done

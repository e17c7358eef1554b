"""Real processes: SIGKILL, SIGTERM, and several that train together."""

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
from tests.backbone.networks import filled_network, small_model_config2
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


def _start_all(config: Path, count: int) -> list[subprocess.Popen[str]]:
    """All processes of one job, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [_start(config, **shared, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(count)]


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
    disturbed, undisturbed = _tensors(run), _tensors(whole)
    assert [name for name in undisturbed if not torch.equal(disturbed[name], undisturbed[name])] == []


def _assert_processes_train_like_one(
    voices: Path, folder: Path, changes: dict[str, Any], batch_size: int, counts: tuple[int, ...] = (2,)
) -> Path:
    """Train with one process and with several that share its batches, compare what they log and end with; return the last run."""

    def configuration(count: int) -> Path:
        place = folder / f"{count} processes"
        place.mkdir()
        return write_config(voices, place / "config.yaml", {**changes, "training.batch_size": batch_size // count})

    alone = run_training(load_config([configuration(1)])).run_folder
    single, expected_records = _tensors(alone), MetricsFile(alone / "metrics.jsonl").read()
    for count in counts:
        config = configuration(count)
        processes = _start_all(config, count)
        outputs = [process.communicate(timeout=180)[0] for process in processes]
        assert [process.returncode for process in processes] == [0] * count, outputs
        run = config.parent / "run"
        records = MetricsFile(run / "metrics.jsonl").read()
        assert [record["kind"] for record in records] == [record["kind"] for record in expected_records]
        # Of the same weights: whoever embeds them, bit for bit.
        assert records[0]["kind"] == "validation" and records[0] == expected_records[0]
        for expected, record in zip(expected_records, records, strict=True):
            if expected["kind"] == "step":
                assert expected.keys() == record.keys()  # the same dims sat out
                losses = [name for name in expected if name.startswith("loss")]
                assert [record[name] for name in losses] == pytest.approx([expected[name] for name in losses], rel=1e-4)
                assert record["accuracy_32"] == pytest.approx(expected["accuracy_32"], abs=1e-6)
        together = _tensors(run)
        for name, value in single.items():
            if name.startswith("system."):
                assert torch.allclose(together[name].float(), value.float(), atol=2e-4), (count, name)
    return run


@pytest.mark.slow
@pytest.mark.parametrize(("family", "sizes"), [("redimnet", (2, 3)), ("redimnet2", (2,))])
def test_processes_train_like_one_with_the_same_global_batch(
    family: str, sizes: tuple[int, ...], voices: Path, tmp_path: Path
) -> None:
    changes = {**CHANGES, "training.num_epochs": 2, "advanced.freeze_backbone_epochs": 1}
    if family == "redimnet2":
        changes["advanced.weights"] = str(tmp_path / "second.pt")
        write_official_checkpoint(tmp_path / "second.pt", *filled_network(small_model_config2()).to_official())
    run = _assert_processes_train_like_one(voices, tmp_path, changes, 6, sizes)
    kinds = [record["kind"] for record in MetricsFile(run / "metrics.jsonl").read()]
    assert kinds.count("validation") == 3
    assert kinds.count("step") == 8  # 20 crops in updates of 6: the last has 2, one for each of two processes, none for a third


@pytest.mark.slow
def test_four_processes_train_like_one(voices: Path, tmp_path: Path) -> None:
    changes = {**CHANGES, "training.num_epochs": 1, "advanced.freeze_backbone_epochs": 0, "training.validate_every_epochs": 1}
    _assert_processes_train_like_one(voices, tmp_path, changes, 8, (4,))


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
    run = _assert_processes_train_like_one(voices, tmp_path, changes, 8)
    steps = [record for record in MetricsFile(run / "metrics.jsonl").read() if record["kind"] == "step"]
    assert len(steps) == 6  # 20 crops in updates of 8: the last has two pairs, one for each process
    assert 0 < sum("loss_4" in record for record in steps) < 6


@pytest.mark.slow
def test_a_killed_process_ends_the_job_and_one_alone_resumes_it(voices: Path, tmp_path: Path) -> None:
    changes = {**CHANGES, "training.num_epochs": 8, "advanced.freeze_backbone_epochs": 8}
    config = write_config(voices, tmp_path / "config.yaml", changes)
    metrics = MetricsFile(tmp_path / "run" / "metrics.jsonl")
    *others, killed = _start_all(config, 3)
    _wait_for_steps(others[0], metrics, 4)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    for rank, other in enumerate(others):
        output = other.communicate(timeout=120)[0]
        assert other.returncode == 2, output
        (error,) = [line for line in output.splitlines() if "error:" in line]
        place = "" if rank == 0 else " (process 1 of 3)"
        assert error.startswith(f"mrl train{place}: error: process {rank} of 3 has lost the others")
        assert "start all of them again (a training with --resume auto)" in error

    done = CheckpointFolder(tmp_path / "run" / "checkpoints", 1).steps()[-1]
    alone = _start(config, "--resume", "auto")
    output = alone.communicate(timeout=120)[0]
    assert alone.returncode == 0, output
    assert "An optimizer step now takes 4 crops (before: 12)" in output
    steps = [record["step"] for record in metrics.read() if record["kind"] == "step"]
    assert steps == list(range(1, steps[-1] + 1)) and steps[-1] > done

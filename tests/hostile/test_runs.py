"""Training under faults: flipped bytes, full disks, two processes, signals before the first step, a model that is gone."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from mrl.errors import CheckpointError, TrainingError
from mrl.files import sha256_of, write_safetensors
from mrl.matryoshka import ReDimNetMRL
from mrl.training.checkpoints import CheckpointFolder, Progress, TrainingState, load_state
from mrl.training.folders import RunFolder, replace_folder
from mrl.training.resuming import find_state
from tests.hostile import corpus

STATE = TrainingState(
    {"system.weight": torch.arange(6, dtype=torch.float32), "random.cpu": torch.get_rng_state()},
    {
        "stage": 1,
        "progress": Progress(epoch=1, step=7, loss_sum=0.25).to_dict(),
        "data": {"utterances": 3},
        "global_batch": 8,
        "average_steps": 0,
        "optimizer": {"0.step": 7.0},
        "scaler": {},
    },
)


@pytest.fixture
def saved(tmp_path: Path) -> CheckpointFolder:
    folder = CheckpointFolder(tmp_path / "checkpoints", keep=3)
    for step in (5, 6, 7):
        folder.save(step, STATE)
    return folder


def test_what_was_written_is_read(saved: CheckpointFolder) -> None:
    found = saved.newest_good()
    assert found is not None and found[0].name == "step-00000007"
    assert found[1].values == {"format": 1, **STATE.values}
    assert torch.equal(found[1].tensors["system.weight"], STATE.tensors["system.weight"])


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
def test_every_flipped_bit_is_noticed(name: str, saved: CheckpointFolder) -> None:
    file = saved.path(7) / name
    whole = file.read_bytes()
    places = [*range(0, min(len(whole), 300), 7), *range(len(whole) - 40, len(whole)), *range(300, len(whole) - 40, 401)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(damaged)
        try:
            found = load_state(saved.path(7))
        except CheckpointError:
            continue
        # White space of the JSON may change without changing what it says; nothing else may.
        assert name == "state.json" and found.values == {"format": 1, **STATE.values}, place


def test_the_newest_good_checkpoint_is_resumed_from(saved: CheckpointFolder, caplog: pytest.LogCaptureFixture) -> None:
    data = bytearray((saved.path(7) / "state.safetensors").read_bytes())
    data[-1] ^= 1
    (saved.path(7) / "state.safetensors").write_bytes(data)
    (saved.path(6) / "state.json").write_text("[" * 100_000)
    found = saved.newest_good()
    assert found is not None and found[0] == saved.path(5)
    assert "step-00000007 is not as it was written" in caplog.text and "nested too deeply" in caplog.text
    for step in (5, 6, 7):
        (saved.path(step) / "state.json").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match="step-00000007"):
        saved.newest_good()
    assert CheckpointFolder(saved.folder / "none", 1).newest_good() is None


def test_checkpoints_of_earlier_versions_have_no_hash(saved: CheckpointFolder) -> None:
    file = saved.path(7) / "state.json"
    values = json.loads(file.read_text())
    del values["values_sha256"], values["tensors_sha256"]
    file.write_text(json.dumps(values))
    assert load_state(saved.path(7)).values["progress"]["step"] == 7
    for key in ("progress", "stage", "data", "optimizer", "scaler", "average_steps"):
        file.write_text(json.dumps({name: value for name, value in values.items() if name != key}))
        with pytest.raises(CheckpointError, match=f"lacks {key}"):
            find_state(str(saved.path(7)), None, RunFolder(saved.folder.parent), saved)  # type: ignore[arg-type]


def test_names_that_are_no_checkpoints(saved: CheckpointFolder) -> None:
    for name in ("step-²", "step-", "step-x", "step-٣"):
        (saved.folder / name).mkdir()
    (saved.folder / "step-9").write_text("a file")
    assert saved.steps() == [5, 6, 7]


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": -1},
        {"epoch": "1"},
        {"step": 1.5},
        {"position": True},
        {"start": []},
        {"best": {"eer": 1}},
        {"unknown": 1},
        {"step": None},
    ],
)
def test_nonsense_in_the_progress(change: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="does not say how far the run is"):
        Progress.from_dict({**Progress().to_dict(), **change})


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: CheckpointFolder) -> None:
    """safetensors has an error of its own, which says in words what the system said."""

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    corpus.write_model(tmp_path / "start")
    model = ReDimNetMRL.from_pretrained(tmp_path / "start")
    before = sha256_of(tmp_path / "start" / "model.safetensors")
    monkeypatch.setattr("safetensors.torch.save_file", full)
    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(OSError) as caught:
        write_safetensors(tmp_path / "a.safetensors", {"a": torch.zeros(1)})
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "a.safetensors"))
    with pytest.raises(TrainingError, match=r"start cannot be written .*No space left"):
        replace_folder(tmp_path / "start", model.save_pretrained)
    with pytest.raises(OSError, match="No space left"):
        model.save_pretrained(tmp_path / "start")
    assert sha256_of(tmp_path / "start" / "model.safetensors") == before
    with pytest.raises(TrainingError, match="step-00000007 is intact"):
        saved.save(8, STATE)
    assert not [path for path in tmp_path.rglob("*") if ".tmp" in path.name]


_HOLD = """
import sys, time
from pathlib import Path
from mrl.training.folders import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_processes_cannot_train_in_one_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    other = subprocess.Popen([sys.executable, "-c", _HOLD, str(folder.root)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(TrainingError, match=rf"process {other.pid} on .* is training in {folder.root}"), folder.locked():
            raise AssertionError("both hold the folder")
    finally:
        other.kill()
        other.wait()
        other.stdout.close()  # type: ignore[union-attr]
    with folder.locked():  # the system has let go of it
        assert str(os.getpid()) in (folder.root / ".lock.holder").read_text()
    assert not (folder.root / ".lock.holder").exists()


_WAIT = """
import datetime, sys, time, torch
from mrl.distribution import Processes
from mrl.errors import ProcessError
processes = Processes.from_environment()
processes.connect(torch.device("cpu"), timeout=datetime.timedelta(seconds=3))
print("met", flush=True)
if processes.rank == 1:
    time.sleep(600)
try:
    processes.barrier()
except ProcessError as error:
    print(type(error).__name__, flush=True)
"""


def test_a_process_that_hangs_ends_the_run_in_the_time_that_is_set(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", _WAIT], stdout=subprocess.PIPE, env={**common, "RANK": rank, "LOCAL_RANK": rank}, text=True
        )
        for rank in ("0", "1")
    )
    try:
        assert first.communicate(timeout=200)[0] == "met\nProcessError\n"
        assert second.poll() is None
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


_STOP = """
import sys
from mrl.training import load_config, run_training
from mrl.training.folders import RunFolder
import os, signal
recover = RunFolder.recover
def slow(self):
    os.kill(os.getpid(), signal.SIGTERM)
    recover(self)
RunFolder.recover = slow
print(run_training(load_config([sys.argv[1]])).interrupted)
"""


def test_a_signal_before_anything_was_trained(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        json.dumps({"data": {"train": {"folder": "a"}, "validation": {"folder": "b"}}, "training": {"output_dir": "run"}})
    )
    found = subprocess.run([sys.executable, "-c", _STOP, str(tmp_path / "c.yaml")], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "True\n"), found.stderr
    assert "Traceback" not in found.stderr


def test_a_finished_run_whose_model_is_gone(tmp_path: Path) -> None:
    from mrl.distribution import Processes
    from mrl.training import load_config
    from mrl.training.run import StopRequest
    from mrl.training.trainer import Trainer

    (tmp_path / "c.yaml").write_text(
        json.dumps({"data": {"train": {"folder": "a"}, "validation": {"folder": "b"}}, "training": {"output_dir": "run"}})
    )
    trainer = Trainer(load_config([tmp_path / "c.yaml"]), torch.device("cpu"), Processes(), StopRequest())
    trainer._resume_or_begin = lambda resume: None  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="is finished, but its model .*best is gone"):
        trainer.run("auto")

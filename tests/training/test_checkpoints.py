"""Checkpoints: whole or not at all, exact, and never lost to a full disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mrl.errors import CheckpointError, TrainingError
from mrl.training import checkpoints
from mrl.training.checkpoints import (
    CheckpointFolder,
    TrainingState,
    load_optimizer_state,
    load_state,
    optimizer_state,
)


def _state(value: float) -> TrainingState:
    return TrainingState({"a.b": torch.tensor([value, 1 / 3])}, {"number": value, "nested": {"x": [1, None]}})


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints", keep=2)
    assert folder.latest() is None
    for step in (3, 20, 100):
        folder.save(step, _state(step))
    assert folder.steps() == [20, 100]
    assert folder.latest() == tmp_path / "checkpoints" / "step-00000100"
    state = load_state(folder.path(100))
    assert torch.equal(state.tensors["a.b"], _state(100).tensors["a.b"])
    assert state.values["nested"] == {"x": [1, None]}
    folder.save(100, _state(7))  # the same step again takes its place
    assert load_state(folder.path(100)).values["number"] == 7
    folder.remove_after(20)
    assert folder.steps() == [20]
    assert sorted(path.name for path in folder.folder.iterdir()) == ["step-00000020"]


@pytest.mark.parametrize("where", ["tensors", "values", "rename"])
def test_a_full_disk_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(1, _state(1))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    target = {"tensors": (checkpoints, "write_safetensors"), "values": (Path, "write_text"), "rename": (Path, "rename")}[where]
    monkeypatch.setattr(*target, full)
    with pytest.raises(TrainingError, match=r"cannot be written .*No space left.*step-00000001 is intact.*--resume auto"):
        folder.save(2, _state(2))
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert load_state(folder.path(1)).values["number"] == 1
    with pytest.raises(TrainingError, match="there is no earlier one"):
        monkeypatch.setattr(*target, full)
        CheckpointFolder(tmp_path / "new", keep=1).save(1, _state(1))


def test_killed_writes_leave_nothing_that_counts(tmp_path: Path) -> None:
    (tmp_path / ".step-00000005.ab12.tmp").mkdir()
    (tmp_path / "step-garbage").mkdir()
    assert CheckpointFolder(tmp_path, keep=1).latest() is None


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
def test_damage_is_reported(tmp_path: Path, name: str) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    path = folder.save(1, _state(1)) / name
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", None):
        path.write_bytes(content) if content is not None else path.unlink()
        with pytest.raises(CheckpointError, match=r"step-00000001.*resume from another checkpoint"):
            load_state(folder.path(1))


def test_other_formats_are_refused(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    path = folder.save(1, _state(1)) / "state.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(CheckpointError, match="reads format 1"):
        load_state(folder.path(1))


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_optimizers_resume_bit_for_bit(tmp_path: Path, kind: type[torch.optim.Optimizer]) -> None:
    def make() -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2)
        extra = {} if kind is torch.optim.AdamW else {"momentum": 0.9}
        return layer, kind(layer.parameters(), lr=0.1, **extra)  # type: ignore[call-arg]

    def step(layer: torch.nn.Linear, optimizer: torch.optim.Optimizer, number: int) -> None:
        optimizer.zero_grad()
        layer(torch.full((1, 3), float(number))).square().sum().backward()
        optimizer.step()

    whole, optimizer = make()
    for number in range(6):
        if number == 3:
            state = optimizer_state(optimizer)
            middle = {name: value.clone() for name, value in whole.state_dict().items()}
            saved = CheckpointFolder(tmp_path, 1).save(1, TrainingState(state.tensors, {"values": state.values}))
        step(whole, optimizer, number)
    resumed, again = make()
    resumed.load_state_dict(middle)
    read = load_state(saved)
    load_optimizer_state(again, TrainingState(read.tensors, read.values["values"]))
    for number in range(3, 6):
        step(resumed, again, number)
    assert torch.equal(resumed.weight, whole.weight) and torch.equal(resumed.bias, whole.bias)
    other = kind(torch.nn.Linear(4, 2).parameters(), lr=0.1)
    with pytest.raises(CheckpointError, match="of other parameters"):
        load_optimizer_state(other, TrainingState(read.tensors, read.values["values"]))


def test_random_numbers_resume() -> None:
    torch.manual_seed(4)
    torch.rand(3)
    state = checkpoints.random_state()
    expected = torch.rand(5)
    checkpoints.restore_random_state(state)
    assert torch.equal(torch.rand(5), expected)

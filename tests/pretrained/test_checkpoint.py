from __future__ import annotations

import logging
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrl.errors import CheckpointError
from mrl.files import sha256_of
from mrl.pretrained import read_official_checkpoint, write_official_checkpoint

CONFIG = {"F": 60, "C": 10, "stages_setup": [(1, 2, 1, [(3, 3)], None)], "norm": "mn", "emb_bn": False}


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"a.weight": torch.randn(7, 5, generator=generator), "a.count": torch.tensor(3)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.pt"
    write_official_checkpoint(path, CONFIG, weights())
    return path


class Payload:
    """Unpickling this by the ordinary way creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_official_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


def test_round_trip_is_exact(file: Path) -> None:
    official = read_official_checkpoint(file)
    assert official.model_config == CONFIG
    assert official.state_dict.keys() == weights().keys()
    for name, tensor in weights().items():
        assert torch.equal(official.state_dict[name], tensor) and official.state_dict[name].dtype == tensor.dtype
    assert official.path == file
    assert official.sha256 == sha256_of(file)


def test_same_contents_give_the_same_bytes(file: Path, tmp_path: Path) -> None:
    write_official_checkpoint(tmp_path / "again.pt", CONFIG, weights())
    assert (tmp_path / "again.pt").read_bytes() == file.read_bytes()


def test_views_do_not_drag_their_storage_along(tmp_path: Path) -> None:
    write_official_checkpoint(tmp_path / "view.pt", CONFIG, {"row": torch.zeros(1000, 1000)[0]})
    assert (tmp_path / "view.pt").stat().st_size < 20_000


def test_ordered_dicts_and_the_older_file_format_are_read(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({"model_config": CONFIG, "state_dict": OrderedDict(weights())}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(read_official_checkpoint(path).state_dict["a.weight"], weights()["a.weight"])


def test_interrupted_writing_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def fail(value: object, stream: Any) -> None:
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        write_official_checkpoint(file, CONFIG, weights())
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_unplain_configuration_is_refused_when_writing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model_config\['stages'\]\[1\] is a float64"):
        write_official_checkpoint(tmp_path / "f.pt", {"stages": [1, np.float64(2)]}, weights())
    assert list(tmp_path.iterdir()) == []


def test_subnormal_weights_become_zero(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny = torch.finfo(torch.float32).tiny
    values = torch.tensor([1e-40, -1e-44, tiny, -tiny, 0.0, 1.0])
    write_official_checkpoint(tmp_path / "f.pt", CONFIG, {"w": values, "n": torch.tensor(4)})
    with caplog.at_level(logging.INFO, logger="mrl"):
        official = read_official_checkpoint(tmp_path / "f.pt")
    assert torch.equal(official.state_dict["w"], torch.tensor([0.0, 0.0, tiny, -tiny, 0.0, 1.0]))
    assert official.state_dict["n"] == 4
    assert [message.endswith("2 subnormal weights set to zero") for message in caplog.messages] == [True]


@pytest.mark.parametrize("where", ["model_config", "state_dict", "extra"])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_not_run(tmp_path: Path, where: str, zipped: bool) -> None:
    evidence = tmp_path / "evidence"
    contents: dict[str, Any] = {"model_config": CONFIG, "state_dict": weights()}
    contents[where] = Payload(evidence)
    torch.save(contents, tmp_path / "evil.pt", _use_new_zipfile_serialization=zipped)
    message = refusal(tmp_path / "evil.pt")
    assert "refers to code (posix.mkdir)" in message or "refers to code (nt.mkdir)" in message
    assert not evidence.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickle_is_not_run(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Payload(tmp_path / "evidence"), protocol))
    message = refusal(tmp_path / "evil.pt")
    assert "plain Python pickle" in message or "not a PyTorch checkpoint" in message
    assert not (tmp_path / "evidence").exists()


def test_the_test_payload_does_run_when_unpickled(tmp_path: Path) -> None:
    """Otherwise the two tests above could not fail."""
    pickle.loads(pickle.dumps(Payload(tmp_path / "evidence")))
    assert (tmp_path / "evidence").is_dir()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0.0, 0.999))
def test_every_truncation_is_refused(file: Path, fraction: float) -> None:
    cut = file.with_name("cut.pt")
    cut.write_bytes(file.read_bytes()[: int(file.stat().st_size * fraction)])
    refusal(cut)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n <!DOCTYPE html><html>", "web page"),
        (b"PK\x03\x04 and then nothing", "truncated"),
        (b"RIFF....WAVE", "not a PyTorch checkpoint"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "f.pt").write_bytes(content)
    assert reason in refusal(tmp_path / "f.pt")


def test_absent_file_and_folder(tmp_path: Path) -> None:
    assert "there is no file" in refusal(tmp_path / "absent.pt")
    assert "cannot read" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        ([1, 2], "holds a list"),
        ({"state_dict": {"w": torch.ones(1)}}, r"lacks 'model_config' (found: 'state_dict')"),
        ({"model_config": CONFIG}, "lacks 'state_dict'"),
        ({"epoch": 3}, "lacks 'model_config' and 'state_dict'"),
        ({"w": torch.ones(1)}, "bare state_dict"),
        ({"model_config": [1], "state_dict": {"w": torch.ones(1)}}, "'model_config' is a list, expected a dict"),
        ({"model_config": CONFIG, "state_dict": 5}, "'state_dict' is a int, expected a dict"),
        ({"model_config": CONFIG, "state_dict": {}}, "'state_dict' is empty"),
        ({"model_config": {3: 1}, "state_dict": {"w": torch.ones(1)}}, "has the key 3"),
        ({"model_config": CONFIG, "state_dict": {"w": 1.0}}, "state_dict['w'] is a float, expected a tensor"),
        ({"model_config": CONFIG, "state_dict": {"w": torch.tensor([1.0, float("nan")])}}, "holds NaN"),
    ],
)
def test_wrong_contents(tmp_path: Path, contents: object, reason: str) -> None:
    torch.save(contents, tmp_path / "f.pt")
    assert reason in refusal(tmp_path / "f.pt")

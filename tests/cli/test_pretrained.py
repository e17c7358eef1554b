from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mrl.cli.main import run
from mrl.files import sha256_of
from tests.pretrained.small import write_small_checkpoint


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.delenv("MRL_DEBUG", raising=False)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def mirror(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder mirror with two loadable files; the second is for non-commercial use."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    for name in ("b0-vox2-ft_lm.pt", "M-vb2+vox2+cnc-ft_mix.pt"):
        write_small_checkpoint(folder / name)
    monkeypatch.setenv("MRL_MIRROR", str(folder))
    return folder


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pretrained", "list"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 1 + 18 + 21
    assert lines[0][0] == "name"
    assert ["b2-vox2-ft_lm", "5,067,057", "0.57", "0.76", "1.32", "0.52", "CC-BY-4.0"] in lines
    assert ["b6-vox2-ft_lm", "~15M", "0.40", "0.55", "1.05", "0.37", "CC-BY-4.0"] in lines
    assert ["S-vb2-ptn", "–", "1.542", "1.408", "2.505", "–", "CC-BY-NC-SA-4.0"] in lines


def test_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pretrained", "list", "--json"]) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert len(entries) == 18 + 21
    assert entries["b5-vox2-ft_lm"]["num_bytes"] == 31_174_382
    assert entries["b5-vox2-ft_lm"]["eer"] == {"original": 0.43, "extended": 0.61, "hard": 1.08}
    assert entries["b5-vox2-ptn"]["eer"] is None
    assert entries["M-vb2+vox2+cnc-ft_mix"]["other_eers"]["VOiCES"] == 2.703


def test_info(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pretrained", "info", "b2"]) == 0
    printed = capsys.readouterr().out
    assert "c9b6bb2f6747caa28a41eaf2e372d66b0d1563baef186d18f5e99abd5e71e06f" in printed
    assert "20,582,650 bytes" in printed and "0.57 / 0.76 / 1.32" in printed
    assert str(cache / "b2-vox2-ft_lm.pt") in printed
    assert run(["pretrained", "info", "M", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["licence"] == "CC-BY-NC-SA-4.0"


def test_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pretrained", "info", "b9"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("mrl pretrained: error: no released checkpoint is called 'b9'; released")
    assert printed.count("\n") == 1


def test_download_then_verify(mirror: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pretrained", "download", "b0"]) == 0
    assert capsys.readouterr().out == f"{cache / 'b0-vox2-ft_lm.pt'}\n"
    assert run(["pretrained", "verify", "b0"]) == 0
    printed = capsys.readouterr().out
    assert sha256_of(mirror / "b0-vox2-ft_lm.pt") in printed
    assert "equals the one recorded at first use" in printed and "18,147" in printed
    assert run(["pretrained", "download", "b0", "--force-reload"]) == 0


def test_licence_is_printed_once(mirror: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pretrained", "download", "M"]) == 0
    assert capsys.readouterr().err.count("CC-BY-NC-SA-4.0") >= 1
    assert run(["pretrained", "download", "M"]) == 0
    assert capsys.readouterr().err == ""


def test_verify_file(mirror: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.pt"
    write_small_checkpoint(path)
    assert run(["pretrained", "verify", str(path)]) == 0
    assert "a file of your own" in capsys.readouterr().out
    path.write_bytes(path.read_bytes()[:-50])
    assert run(["pretrained", "verify", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"mrl pretrained: error: {path} is truncated")


@pytest.mark.parametrize(
    ("name", "reason"), [("b0", "mrl pretrained download b0-vox2-ft_lm"), ("./absent.pt", "no such file"), ("b9", "b9")]
)
def test_verify_what_is_not_there(cache: Path, capsys: pytest.CaptureFixture[str], name: str, reason: str) -> None:
    assert run(["pretrained", "verify", name]) == 2
    printed = capsys.readouterr().err
    assert reason in printed and printed.count("\n") == 1


def test_changed_file_is_refused(mirror: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pretrained", "download", "b0"]) == 0
    (cache / "b0-vox2-ft_lm.pt").write_bytes(b"x")
    assert run(["pretrained", "verify", "b0"]) == 2
    assert "at first use it had" in capsys.readouterr().err

"""The model of the package on the command line, with no network and an empty cache."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import torch

from mrl.cli.main import run
from mrl.embeddings import cosine_similarity, load_embeddings
from mrl.matryoshka import ReDimNetMRL
from tests.embeddings.fakes import all_pairs
from tests.embeddings.tiny import write_models, write_voices

MODEL = ["--model", "mrl-b0-demo"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundled")
    lines = "".join(f"{int(label)} {a} {b}\n" for label, a, b in all_pairs(write_voices(folder / "voices")))
    (folder / "trials.txt").write_text(lines)
    return folder


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.delenv("MRL_MIRROR", raising=False)


def _files(place: Path) -> list[str]:
    files = sorted((place / "voices").rglob("*.flac"))
    return [str(files[0]), str(files[4])]


def test_verify(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", *_files(place), *MODEL, "--dim", "64"]) == 0
    printed = capsys.readouterr()
    model = ReDimNetMRL.from_pretrained("mrl-b0-demo")
    with torch.inference_mode():
        first, second = (model(file, target_dim=64).numpy() for file in _files(place))
    assert f"score: {cosine_similarity(first, second):.4f} " in printed.out and "at prior 0.5)" in printed.out
    notice, *warnings = printed.err.splitlines()
    assert notice.startswith("mrl-b0-demo is a demonstration model")
    assert [line.rpartition(": ")[2] for line in warnings if " embedded" in line] == ["0.7 s of speech, 0.7 s embedded"] * 2
    assert sum("below 1 s scores are uncertain" in line for line in warnings) == 2 and len(warnings) == 4
    assert not (tmp_path / "torch").exists()


def test_embed(place: Path, tmp_path: Path) -> None:
    output = tmp_path / "embeddings.npz"
    assert run(["embed", *_files(place), "-o", str(output), *MODEL]) == 0
    table = load_embeddings(output)
    assert table.matrix.shape == (2, 256) and table.metadata["model"] == "mrl-b0-demo" and table.metadata["unit_length"] is True


def test_enroll_and_identify(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ["--store", str(tmp_path / "voices.sqlite")]
    first, second = _files(place)
    assert run(["enroll", "anna", first, *MODEL, *store]) == 0
    assert run(["enroll", "bert", second, *MODEL, *store]) == 0
    capsys.readouterr()
    assert run(["identify", second, *MODEL, *store]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[::4] == ["1.0000", "bert"] and lines[1].split()[-1] == "anna"


def test_evaluate(place: Path, tmp_path: Path) -> None:
    report = tmp_path / "report"
    arguments = [
        "--trials",
        str(place / "trials.txt"),
        "--root",
        str(place / "voices"),
        "--output",
        str(report),
        "--bootstrap",
        "0",
    ]
    assert run(["evaluate", "mrl-b0-demo", *arguments, "--dims", "16,256"]) == 0
    systems = {system["name"] for system in json.loads((report / "report.json").read_text())["systems"]}
    assert systems == {"matryoshka", "unmodified backbone"}


def test_copy_then_calibrate(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials = ["--trials", str(place / "trials.txt"), "--root", str(place / "voices"), "--dims", "16"]
    assert run(["calibrate", "mrl-b0-demo", *trials]) == 2
    assert "mrl pretrained copy mrl-b0-demo FOLDER" in capsys.readouterr().err
    assert run(["pretrained", "copy", "mrl-b0-demo", str(tmp_path / "mine")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'mine'}\n"
    assert run(["calibrate", str(tmp_path / "mine"), *trials]) == 0
    assert (tmp_path / "mine" / "calibration.json").is_file()


def test_list_and_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["pretrained", "list"]) == 0
    told = capsys.readouterr().err
    assert told.startswith("In the package, for trying things out: mrl-b0-demo (CC-BY-4.0; EER % at 64 / 256 on so762-adult ")
    assert run(["pretrained", "info", "mrl-b0-demo"]) == 0
    printed = capsys.readouterr().out
    assert "CC-BY-4.0" in printed and "EER % libri-test-other:" in printed and "demonstration model" in printed
    assert run(["pretrained", "info", "mrl-b0-demo", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["name"] == "mrl-b0-demo" and len(facts["results"]) == 3


def test_errors(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, _ = write_models(tmp_path)
    for arguments, message in (
        ([*MODEL, "--weights", str(checkpoint)], "mrl-b0-demo comes with the package and has weights of its own"),
        (["--model", "mrl-b9-demo"], "no released checkpoint is called 'mrl-b9-demo'"),
        (["--model", "mrl-b9-demo"], "in the package: mrl-b0-demo"),
    ):
        assert run(["verify", *_files(place), *arguments]) == 2
        told = capsys.readouterr().err
        assert message in told and told.count("\n") == 1


def test_a_failed_download_names_the_model_that_needs_none(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MRL_MIRROR", str(tmp_path))  # an empty folder fails at once, without repeated attempts
    assert run(["verify", *_files(place), "--model", "b2"]) == 2
    assert "A small model to try things out comes with the package: mrl-b0-demo" in capsys.readouterr().err

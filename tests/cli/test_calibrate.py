"""``mrl calibrate``, and what ``mrl verify`` says afterwards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mrl.cli.main import run
from mrl.embeddings import load_calibration
from tests.embeddings.fakes import all_pairs
from tests.embeddings.tiny import write_models, write_voices


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrate")
    write_models(folder)
    lines = "".join(f"{int(label)} {a} {b}\n" for label, a, b in all_pairs(write_voices(folder / "voices")))
    (folder / "trials.txt").write_text(lines)
    return folder


def test_calibrate_then_verify(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model"
    shutil.copytree(place / "tiny-mrl", model)
    files = [str(path) for path in sorted((place / "voices").rglob("*.flac"))[:2]]
    assert run(["verify", *files, "--model", str(model), "--dim", "16"]) == 0
    assert "no decision" in capsys.readouterr().out
    arguments = ["calibrate", str(model), "--trials", str(place / "trials.txt"), "--root", str(place / "voices")]
    assert run([*arguments, "--dims", "16,64", "--prior", "0.2", "--max-far", "0.1", "--max-far", "0.25"]) == 0
    captured = capsys.readouterr()
    out = captured.out
    assert captured.err == ""
    assert f"written: {model / 'calibration.json'}" in out
    calibration = load_calibration(model)
    assert calibration is not None and calibration.prior == 0.2
    for dim in (16, 64):
        one = calibration.at(dim)
        assert [kept.false_accept_rate for kept in one.thresholds] == [0.25, 0.1, 0.05, 0.02, 0.01]
        assert f"{one.cllr:.4f}" in out and f"{one.minimum_cllr:.4f}" in out
        for kept in one.thresholds:
            assert f"{kept.threshold:.3f} ({100 * kept.false_reject_rate:.2f})" in out
        assert one.cllr <= 1.0 < one.cllr + one.cllr_raw
    assert run(["verify", *files, "--model", str(model), "--dim", "16"]) == 0
    out = capsys.readouterr().out
    assert "(raw cosine, from -1 to 1)" in out and "log-likelihood ratio: " in out
    assert "(prior 0.2: threshold 1.386)" in out
    assert run(["verify", *files, "--model", str(model), "--dim", "16", "--max-far", "0.25"]) == 0
    limit = calibration.threshold(16, max_false_accept=0.25)
    assert f"(false accept rate 0.25: threshold {limit:.3f})" in capsys.readouterr().out
    assert run(["verify", *files, "--model", str(model), "--dim", "16", "--max-far", "0.3"]) == 0
    assert f"(false accept rate 0.3, measured at 0.25: threshold {limit:.3f})" in capsys.readouterr().out
    assert run(["verify", *files, "--model", str(model), "--dim", "32"]) == 0
    out = capsys.readouterr().out
    assert "at dim 32: its calibration covers the dims 16, 64" in out and "no decision" in out
    assert run(["verify", *files, "--model", str(model), "--dim", "16", "--threshold", "-1"]) == 0
    captured = capsys.readouterr()
    assert "decision: same speaker (threshold -1)" in captured.out and "calibrate it on trials of your own" in captured.err
    for wrong, message in (
        (["--dim", "32", "--prior", "0.5"], "gives no log-likelihood ratio at dim 32"),
        (["--dim", "16", "--max-far", "1.5"], "a false accept rate lies between 0 and 1"),
        (["--dim", "16", "--prior", "1"], "a prior lies between 0 and 1"),
    ):
        assert run(["verify", *files, "--model", str(model), *wrong]) == 2
        assert message in capsys.readouterr().err
    values = json.loads((model / "calibration.json").read_text())
    (model / "calibration.json").write_text(json.dumps({**values, "weights_sha256": "0" * 64}))
    assert run(["verify", *files, "--model", str(model), "--dim", "16"]) == 2
    assert "made for other weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "more", "message"),
    [
        ("tiny.pt", [], "neither a model folder nor an exported file"),
        ("tiny-mrl", ["--max-far", "0.0001"], "needs at least 10000 different-speaker trials"),
        ("tiny-mrl", ["--dims", "16,257"], "1..256"),
        ("tiny-mrl", ["--quality", "loudness"], "loudness"),
        ("voices", [], "has no config.json"),
    ],
)
def test_errors(model: str, more: list[str], message: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials, root = str(place / "trials.txt"), str(place / "voices")
    assert run(["calibrate", str(place / model), "--trials", trials, "--root", root, *more]) == 2
    assert message in capsys.readouterr().err
    assert not list(place.glob("*/calibration.json"))

"""``mrl quantise-report``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mrl.cli.main import run
from mrl.embeddings import open_model, weights_sha256
from mrl.evaluation import evaluate_model
from mrl.trials import read_trials
from tests.embeddings.fakes import all_pairs
from tests.embeddings.tiny import write_models, write_voices


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantise")
    write_models(folder)
    names = write_voices(folder / "voices")
    (folder / "trials.txt").write_text("".join(f"{int(label)} {a} {b}\n" for label, a, b in all_pairs(names)))
    return folder


def test_a_model_folder_and_its_embeddings(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = ["--trials", str(place / "trials.txt"), "--bootstrap", "100", "--dims", "16,192"]
    arguments = ["quantise-report", str(place / "tiny-mrl"), "--root", str(place / "voices"), *listed]
    assert run([*arguments, "-o", str(tmp_path / "report"), "--cache", str(tmp_path / "cache")]) == 0
    out = capsys.readouterr().out
    assert out.count("written: ") == 5 and "recall@1 %" in out
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    model = open_model(place / "tiny-mrl")
    expected = evaluate_model(model, read_trials(place / "trials.txt"), place / "voices", dims=(16, 192), bootstrap=0)
    rates = {row["dim"]: row["eer"] for row in report["rows"] if row["format"] == "float32"}
    assert rates == pytest.approx(expected.equal_error_rates(), abs=0.01)
    assert [(row["format"], row["dim"], row["bytes"]) for row in report["rows"]] == [
        *(("float32", 16, 64), ("float32", 192, 768), ("float16", 16, 32), ("float16", 192, 384)),
        *(("int8", 16, 20), ("int8", 192, 196), ("binary", 16, 8), ("binary", 192, 24)),
    ]
    assert report["provenance"]["model_sha256"] == weights_sha256(model)
    assert report["identification"] == {"enrolled": 6, "queries": 12, "seed": 0}
    assert all(0 <= row["recall_at_1"] <= 1 and row["recall_at_10"] is None for row in report["rows"])

    monkeypatch.chdir(place / "voices")
    Path(tmp_path / "list.txt").write_text("\n".join(read_trials(place / "trials.txt").utterances))
    shards = tmp_path / "shards"
    assert run(["embed", str(tmp_path / "list.txt"), "-o", str(shards), "--model", str(place / "tiny-mrl")]) == 0
    assert run(["quantise-report", str(shards), *listed, "-o", str(tmp_path / "again")]) == 0
    again = json.loads((tmp_path / "again" / "report.json").read_text())
    for one, other in zip(report["rows"], again["rows"], strict=True):
        assert one["eer"] == pytest.approx(other["eer"], abs=0.01)
        assert one["recall_at_1"] == pytest.approx(other["recall_at_1"], abs=1e-9)
    assert run(["evaluate", str(shards), *listed]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny-mrl"], "a data root is needed"),
        (["tiny-mrl", "--root", "absent"], "18 of 18 recordings cannot be used"),
        (["tiny-mrl", "--root", "voices", "--dims", "257"], "1..256"),
        (["absent.npz"], "does not exist"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    message: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place)
    assert run(["quantise-report", *arguments, "--trials", "trials.txt", "--bootstrap", "0"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("mrl quantise-report: error: ")

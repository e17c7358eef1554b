"""``mrl verify``."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrl.cli.main import run
from mrl.embeddings import cosine_similarity, embed_files, open_model
from tests.embeddings.tiny import write_models, write_voices


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    write_models(folder)
    write_voices(folder / "voices")
    return folder


def _two(place: Path) -> list[str]:
    files = sorted((place / "voices").glob("*/*.flac"))
    return [str(files[0]), str(files[4])]


@pytest.mark.parametrize("model", ["tiny.pt", "tiny-mrl"])
def test_score_without_decision(model: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", *_two(place), "--model", str(place / model), "--dim", "32"]) == 0
    expected = cosine_similarity(*embed_files(open_model(place / model), _two(place), target_dim=32).matrix)
    out = capsys.readouterr().out
    assert f"score: {expected:.4f} (raw cosine, from -1 to 1)" in out
    assert "no decision" in out and "decision: " not in out.replace("no decision: ", "")


def test_decision_on_either_side_of_the_score_with_a_warning(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["verify", *_two(place), "--model", str(place / "tiny-mrl"), "--threshold"]
    score = cosine_similarity(*embed_files(open_model(place / "tiny-mrl"), _two(place)).matrix)
    for threshold, decision in ((score - 1e-3, "same speaker"), (score + 1e-3, "different speakers")):
        assert run([*common, str(threshold)]) == 0
        captured = capsys.readouterr()
        assert f"decision: {decision} (threshold" in captured.out
        assert "calibrate it on trials of your own" in captured.err and "(cosine + 1) / 2" in captured.err


def test_a_recording_against_itself(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = _two(place)[0]
    assert run(["verify", first, first, "--model", str(place / "tiny-mrl")]) == 0
    assert "score: 1.0000 " in capsys.readouterr().out


def test_errors(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", _two(place)[0], str(tmp_path / "absent.wav"), "--model", str(place / "tiny.pt")]) == 2
    assert "1 of 2 recordings cannot be used" in capsys.readouterr().err
    assert run(["verify", *_two(place), "--model", str(place / "tiny.pt"), "--threshold", "1.5"]) == 2
    assert "-1.0<=x<=1.0" in capsys.readouterr().err

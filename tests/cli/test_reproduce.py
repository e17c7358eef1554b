"""``mrl reproduce voxceleb``."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrl.audio import write_synthetic_corpus
from mrl.cli.main import run
from tests.evaluation.test_reproduction import own_checkpoint_cache, write_lists, write_voxceleb
from tests.pretrained.small import write_small_checkpoint

__all__ = ["own_checkpoint_cache"]  # a fixture, for pytest to find


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reproduce")
    write_lists(folder / "vox1" / "trials", write_voxceleb(folder / "vox1"))
    write_small_checkpoint(folder / "b0-vox2-ft_lm.pt")
    return folder


def _arguments(place: Path, *more: str) -> list[str]:
    start = ["reproduce", "voxceleb", "--root", str(place / "vox1"), "--model", "b0", "--weights", str(place), "--no-fetch"]
    return [*start, "--bootstrap", "0", *more]


def test_the_table_and_the_exit_status(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = _arguments(place, "--any-list", "--cache", str(tmp_path / "cache"))
    assert run([*arguments, "--tolerance", "100"]) == 0
    out = capsys.readouterr().out
    for words in ("b0-vox2-ft_lm", "Vox1-O", "Vox1-E", "Vox1-H", "1.16", "1.25", "2.20", "not the official list", "reproduced"):
        assert words in out
    assert run([*arguments, "--tolerance", "0.01", "--lists", "O,H"]) == 1
    captured = capsys.readouterr()
    assert "2 of 2 figures are outside the tolerance" in captured.err
    assert "Vox1-E" not in captured.out and captured.out.count("outside") == 2


def test_as_norm(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_synthetic_corpus(tmp_path / "vox2", num_speakers=5, utterances_per_speaker=1, seconds=(0.4, 0.5), seed=4)
    arguments = _arguments(place, "--any-list", "--lists", "O", "--tolerance", "100", "--as-norm", "5")
    assert run([*arguments, "--cohort", str(tmp_path / "vox2")]) == 0
    assert "AS-Norm, top 5" in capsys.readouterr().out
    assert run(arguments) == 2
    assert "need a cohort" in capsys.readouterr().err


def test_errors(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(_arguments(place)) == 2
    assert "mrl reproduce: error" in (err := capsys.readouterr().err) and "not comparable" in err and err.count("\n") == 1
    assert run(_arguments(place, "--trials-dir", str(place))) == 2
    assert "give its folder with --trials-dir" in capsys.readouterr().err
    assert run(["reproduce", "voxceleb"]) == 2

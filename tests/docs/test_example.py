"""``example_pretrained.py`` runs from end to end, and tells mistakes in one line."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mrl.pretrained import find_bundled
from tests.docs.markdown import ROOT

EXAMPLE = ROOT / "example_pretrained.py"
Main = Callable[[Sequence[str]], int]


@pytest.fixture(scope="module")
def main() -> Main:
    entry: Main = runpy.run_path(str(EXAMPLE))["main"]
    return entry


def _cosines(output: str) -> dict[int, str]:
    return {int(dim): score for dim, score in re.findall(r"^ +(\d+) +\d+ +([+-]\d\.\d{4})$", output, re.MULTILINE)}


def test_offline_with_synthetic_voices(user: Path) -> None:
    """As a user starts it: no network, no recordings, an empty cache, which stays empty."""
    Path("downloads/b2-vox2-ft_lm.pt").rename("small.pt")  # under the released name, its hash would be remarked upon
    environment = {**os.environ, "MRL_MIRROR": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLE), "--weights", "small.pt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (user / "torch").exists()
    cosines = _cosines(done.stdout)
    assert list(cosines) == [16, 32, 64, 128, 192, 256]
    baseline = re.search(r"the released network itself, 192 numbers: ([+-]\d\.\d{4})", done.stdout)
    assert baseline is not None
    assert cosines[192] == cosines[256] == baseline[1]


def test_own_recordings_and_a_released_name(user: Path, main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model-name", "M", "--embed-dim", "48", "--audio", "speaker.wav", "other.wav"]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert "M-vb2+vox2+cnc-ft_mix.pt" in output and "CC-BY-NC-SA-4.0" in output
    assert list(_cosines(output)) == [16, 32, 48]
    assert "From 192 numbers on" not in output  # a shorter head does not score as the released network


def test_a_recording_against_itself(user: Path, main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--audio", "speaker.wav", "speaker.wav"]) == 0
    assert set(_cosines(capsys.readouterr().out).values()) == {"+1.0000"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "absent.pt"], "absent.pt"),
        (["--model-name", "b9"], "no released checkpoint is called 'b9'"),
        (["--model-name", "b3", "--train-type", "ft_mix"], "no released checkpoint has model_name='b3'"),
        (["--audio", "absent.wav", "other.wav"], "absent.wav"),
        (["--embed-dim", "0"], "embed_dim"),
    ],
)
def test_mistakes_are_one_line(
    user: Path, main: Main, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("example_pretrained.py: error: ") and message in error and error.count("\n") == 1


def test_the_model_of_the_package(user: Path, main: Main, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "mrl-b0-demo", "--audio", "speaker.wav", "other.wav"]) == 0
    output = capsys.readouterr().out
    assert "mrl-b0-demo is a demonstration model" in output and "CC-BY-4.0" in output
    bundled = find_bundled("mrl-b0-demo")
    assert bundled is not None and tuple(_cosines(output)) == bundled.mrl_dims
    assert not (user / "torch").exists()
    assert main(["--model", "mrl-b0-demo", "--weights", "small.pt"]) == 2
    assert "of the other options only --audio goes with it" in capsys.readouterr().err

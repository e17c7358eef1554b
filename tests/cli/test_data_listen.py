"""``mrl data listen`` from the command line to the files."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrl.cli.main import run
from tests.training.conftest import voices, write_config  # noqa: F401  (a fixture)


def test_examples_with_a_configuration(voices: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    rooms = {"probability": 0.0, "count": 2, "rt60_seconds": [0.15, 0.2]}
    changes = {"data.augmentation.gain_probability": 1.0, "data.augmentation.simulated_rooms": rooms}
    config = write_config(voices, tmp_path / "config.yaml", changes)
    output = tmp_path / "examples"
    arguments = [
        "data",
        "listen",
        str(voices / "train"),
        "-o",
        str(output),
        "--config",
        str(config),
        "--count",
        "1",
        "--seed",
        "5",
    ]
    assert run(arguments) == 0
    printed = capfd.readouterr().out.splitlines()
    assert printed[:2] == [
        "no room: data.augmentation.rir_folders is empty",
        "no noise: data.augmentation.noise_folders is empty",
    ]
    assert printed[-1] == f"9 examples; open {output / 'index.html'}"
    assert (output / "001-configured.wav").stat().st_size == 44 + 2 * 6400  # crop_seconds of that file: 0.4


def test_mistakes_are_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "listen", str(tmp_path / "none.csv"), "-o", str(tmp_path / "out")]) == 2
    error = capfd.readouterr().err
    assert error.startswith("mrl data: error: ") and "none.csv" in error and error.count("\n") == 1

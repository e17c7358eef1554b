"""``mrl embed``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mrl.cli.main import run
from mrl.embeddings import embed_files, load_embeddings, open_model
from mrl.trials import read_trials
from tests.embeddings.tiny import write_models, write_voices


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embed")
    write_models(folder)
    write_voices(folder / "voices")
    return folder


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".safetensors"])
def test_a_folder_of_recordings(place: Path, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / f"e{suffix}"
    assert run(["embed", str(place / "voices"), "-o", str(output), "--model", str(place / "tiny-mrl"), "--dim", "16"]) == 0
    table = load_embeddings(output)
    files = sorted((place / "voices").glob("*/*.flac"))
    assert table.ids == tuple(map(str, files))
    np.testing.assert_allclose(table.matrix, embed_files(open_model(place / "tiny-mrl"), files, target_dim=16).matrix, atol=1e-6)
    assert table.metadata["dim"] == 16 and table.metadata["unit_length"] is True
    assert len(table.metadata["model_sha256"]) == 64
    assert f"18 embeddings of 16 dimensions written to {output}" in capsys.readouterr().out


def test_unusable_recordings_are_counted_and_the_others_written(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = sorted((place / "voices").glob("*/*.flac"))[:2]
    (tmp_path / "bad.wav").write_text("not audio")
    listing = tmp_path / "list.txt"
    listing.write_text("\n".join(map(str, [good[0], tmp_path / "bad.wav", tmp_path / "absent.wav", good[1]])))
    output = tmp_path / "e.npz"
    assert run(["embed", str(listing), "-o", str(output), "--model", str(place / "tiny.pt")]) == 1
    table = load_embeddings(output)
    assert table.ids == tuple(map(str, good))
    assert table.matrix.shape == (2, 192) and table.metadata["unit_length"] is False
    error = capsys.readouterr().err
    assert "2 of 4 recordings could not be used" in error
    assert f"{tmp_path / 'bad.wav'}: " in error and f"{tmp_path / 'absent.wav'}: " in error
    assert error.count("bad.wav") == 1


def test_ids_below_a_root_are_those_of_a_trial_list(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    voices, output, model = place / "voices", tmp_path / "e.npz", ["--model", str(place / "tiny-mrl")]
    assert run(["trials", "make", str(voices), "-o", str(tmp_path / "trials.txt")]) == 0
    monkeypatch.chdir(place)
    assert run(["embed", "voices", "-o", str(output), "--root", "voices", *model]) == 0
    assert sorted(load_embeddings(output).ids) == sorted(read_trials(tmp_path / "trials.txt").utterances)
    assert run(["embed", "voices", "-o", str(output), "--root", str(tmp_path), *model]) == 2
    assert "does not lie below the root" in capsys.readouterr().err
    assert run(["embed", "voices", "-o", str(tmp_path / "shards"), "--root", "voices", *model]) == 2
    assert "--root is for one file" in capsys.readouterr().err


def test_nothing_usable_writes_nothing(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["embed", str(tmp_path / "absent.wav"), "-o", str(tmp_path / "e.npz"), "--model", str(place / "tiny.pt")]) == 1
    assert not list(tmp_path.iterdir())
    assert "1 of 1 recordings could not be used" in capsys.readouterr().err


def test_a_folder_of_shards(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["embed", str(place / "voices"), "--model", str(place / "tiny-mrl"), "--dim", "16"]
    assert run([*arguments, "-o", str(tmp_path / "one.npz")]) == 0
    assert run([*arguments, "-o", str(tmp_path / "shards"), "--shard-size", "7", "--shard-format", "npz"]) == 0
    assert f"18 embeddings of 16 dimensions in 3 shards written to {tmp_path / 'shards'}" in capsys.readouterr().out
    one, shards = load_embeddings(tmp_path / "one.npz"), load_embeddings(tmp_path / "shards")
    seconds = one.metadata.pop("seconds")
    assert len(seconds) == len(one.metadata.pop("speech_seconds")) == 18 and min(seconds) > 0.4
    assert shards.ids == one.ids and shards.metadata == one.metadata
    np.testing.assert_allclose(shards.matrix, one.matrix, atol=1e-6)
    assert run([*arguments, str(tmp_path / "absent.wav"), "-o", str(tmp_path / "again")]) == 1
    said = capsys.readouterr()
    assert "18 embeddings of 16 dimensions in 1 shards" in said.out
    assert f"1 of 19 recordings could not be used; {tmp_path / 'again' / 'failures.tsv'} says" in said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "e.csv"], "'.csv' is no suffix"),
        (["-o", "e.npz", "--dim", "257"], "1..256"),
        (["-o", "e.npz", "--shard-size", "5"], "is one file"),
        (["-o", "e", "--shard-size", "0"], "at least 1"),
        (["-o", "e.npz", "--device", "nonsense"], "nonsense"),
        (["-o", "e.npz", "--batch-seconds", "0"], "--batch-seconds"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    message: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["embed", str(place / "voices"), "--model", str(place / "tiny-mrl"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("mrl embed: error: ")
    assert not list(tmp_path.iterdir())

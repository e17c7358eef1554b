"""``mrl data shard``: write, go on, verify, complain."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mrl.audio import write_synthetic_corpus
from mrl.cli.main import run
from mrl.data import ShardIndex


def test_write_again_and_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    speech, shards = tmp_path / "speech", tmp_path / "shards"
    paths = write_synthetic_corpus(speech, num_speakers=3, utterances_per_speaker=2, seconds=(0.2, 0.3), seed=1)
    manifest = tmp_path / "list.csv"
    rows = sorted(path.relative_to(speech).as_posix() for path in speech.rglob("*.flac"))
    manifest.write_text("path,speaker,part\n" + "".join(f"{row},{row.split('/')[0]},p{row[10]}\n" for row in rows))
    assert paths and len(rows) == 6
    command = ["data", "shard", str(manifest), "-o", str(shards), "--root", str(speech), "--shard-megabytes", "0.03"]
    command += ["--where", "part=p0", "--where", "part=p1", "--encode", "as-is", "--seed", "3", "--num-workers", "1"]
    assert run(command) == 0
    out = capsys.readouterr().out
    index = ShardIndex.load(shards)
    assert {one.speaker for one in index.corpus().utterances} == {"speaker0000", "speaker0001"} and len(index) == 4
    assert out.startswith(f"{shards}: 4 utterances of 2 speakers in {len(index.shards)} shards, 0.")
    assert out.endswith("MB (0 shards were there)\n")
    assert run(command) == 0
    assert f"({len(index.shards)} shards were there)" in capsys.readouterr().out
    assert run(["data", "shard", "--verify", "-o", str(shards)]) == 0
    assert capsys.readouterr().out == f"{shards}: {len(index.shards)} shards with 4 utterances are intact\n"
    os.truncate(shards / "shard-00000.tar", 2000)
    assert run(["data", "shard", "--verify", "-o", str(shards)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mrl data: error: ") and "shard-00000.tar has 2000 bytes, its index says" in error
    assert len(error.splitlines()) == 1


def test_a_folder_with_an_unreadable_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_synthetic_corpus(tmp_path / "speech", num_speakers=2, utterances_per_speaker=2, seconds=(0.2, 0.3), seed=1)
    bad = sorted((tmp_path / "speech").rglob("*.flac"))[2]
    bad.write_text("not audio")
    command = ["data", "shard", str(tmp_path / "speech"), "-o", str(tmp_path / "shards")]
    assert run(command) == 2
    assert f"{bad}: soundfile:" in capsys.readouterr().err
    assert run([*command, "--leave-out-unreadable"]) == 1
    captured = capsys.readouterr()
    assert "3 utterances of 2 speakers in 1 shards" in captured.out
    assert captured.err.startswith(f"left out: {bad}: soundfile:") and captured.err.count("\n") == 1


def test_arguments_that_do_not_go_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ([], "Missing argument 'MANIFEST'"),
        (["--verify", str(tmp_path)], "omit MANIFEST"),
        ([str(tmp_path), "--where", "a=b"], "belong to a manifest"),
    ):
        assert run(["data", "shard", *arguments, "-o", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err

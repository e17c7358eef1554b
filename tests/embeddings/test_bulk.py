"""Embedding into a folder of shards: the same as one file, whatever happens on the way, in bounded memory."""

from __future__ import annotations

import contextlib
import csv
import errno
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mrl.embeddings.extraction as extraction
import mrl.embeddings.writing as writing
import mrl.files
from mrl.embeddings import EmbeddedFolder, ShardedEmbeddings, embed_files, embed_to_folder, load_embeddings, means_folder
from mrl.errors import DataError, InputError
from tests.embeddings.fakes import SpectrumMatryoshka, write_corpus

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twenty-one recordings; the third, the eleventh and the last of them cannot be used."""
    folder = tmp_path_factory.mktemp("recordings")
    paths = [folder / name for name in write_corpus(folder)]
    (folder / "bad.wav").write_text("not audio")
    (folder / "empty.wav").write_bytes(b"")
    return [*paths[:2], folder / "bad.wav", *paths[2:9], folder / "absent.wav", *paths[9:], folder / "empty.wav"]


def _embed(recordings: list[Path], folder: Path, model: Any = None, **changes: Any) -> EmbeddedFolder:
    arguments = {"model_name": "tones", "shard_size": 8, "batch_seconds": 0.7, "num_workers": 1, **changes}
    done = embed_to_folder(model or SpectrumMatryoshka(), recordings, folder, **arguments)
    assert done is not None
    return done


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.mark.parametrize("shard_format", ["safetensors", "npz", "parquet"])
def test_shards_hold_what_one_file_would(recordings: list[Path], tmp_path: Path, shard_format: str) -> None:
    one = embed_files(SpectrumMatryoshka(), recordings, target_dim=8)
    done = _embed(recordings, tmp_path, target_dim=8, shard_format=shard_format)
    assert done.failures == one.failures
    table = load_embeddings(tmp_path)
    assert table.ids == tuple(map(str, one.paths))
    np.testing.assert_allclose(table.matrix, one.matrix, atol=1e-6)
    assert table.metadata["dim"] == 8 and table.metadata["model"] == "tones" and table.metadata["unit_length"] is True
    parts = list(done.embeddings)
    assert [len(part.ids) for part in parts] == [7, 7, 4] and len(done.embeddings) == 18
    np.testing.assert_array_equal(np.concatenate([part.matrix for part in parts]), table.matrix)
    with (tmp_path / "failures.tsv").open(newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert [row["path"] for row in rows] == [str(failure.path) for failure in done.failures]
    assert all(row["reason"] for row in rows) and done.embeddings.num_failures == 3
    done.embeddings.verify()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shard_size=st.integers(1, 30), count=st.integers(0, 21))
def test_any_shard_size_gives_every_recording_once_in_order(
    shard_size: int, count: int, recordings: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    done = _embed(recordings[:count], folder, shard_size=shard_size, num_workers=0)
    unusable = {recordings[2], recordings[10], recordings[20]}
    assert load_embeddings(folder).ids == tuple(str(path) for path in recordings[:count] if path not in unusable)
    assert [failure.path for failure in done.failures] == [path for path in recordings[:count] if path in unusable]
    assert len(done.embeddings.shards) == -(-count // shard_size)
    assert sum(shard.recordings for shard in done.embeddings.shards) == count
    assert (folder / "failures.tsv").exists() == (count >= 3)


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(recordings: list[Path], tmp_path: Path) -> None:
    _embed(recordings, tmp_path / "whole")
    script = """
import os, signal, sys
import mrl.files
from pathlib import Path
from tests.embeddings.test_bulk import _embed
flushes, left = os.fsync, [int(sys.argv[1])]
def fsync(descriptor):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)  # the temporary file is written, its name is not yet changed
    flushes(descriptor)
mrl.files.os.fsync = fsync
_embed([Path(name) for name in sys.argv[3:]], Path(sys.argv[2]))
"""
    folder = tmp_path / "killed"
    # Writes are: the job; each shard and its description; failures; index.
    for killed_at, finished in ((1, set()), (5, {0}), (3, {0, 1})):
        names = [str(path) for path in recordings]
        command = [sys.executable, "-c", script, str(killed_at), str(folder), *names]
        ended = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120)
        assert ended.returncode == -signal.SIGKILL
        assert any(folder.glob(".*.tmp.*"))
        assert {int(path.stem[-5:]) for path in folder.glob("shard-*.json")} == finished
        with pytest.raises(DataError, match="unfinished" if killed_at > 1 else "holds no embeddings"):
            load_embeddings(folder)
    model = SpectrumMatryoshka()
    done = _embed(recordings, folder, model)
    assert sum(map(len, model.backbone.batches)) == 4  # those of the last shard that can be read
    assert _contents(folder) == _contents(tmp_path / "whole")
    assert len(done.failures) == 3


def test_a_finished_folder_is_verified_and_nothing_is_computed(recordings: list[Path], tmp_path: Path) -> None:
    _embed(recordings, tmp_path)
    before = _contents(tmp_path)
    model = SpectrumMatryoshka()
    assert len(_embed(recordings, tmp_path, model, model_name="the same under another name").failures) == 3
    assert not model.backbone.batches and _contents(tmp_path) == before


@pytest.mark.parametrize("damage", ["changed", "cut off", "missing", "description"])
def test_a_damaged_shard_is_made_again(
    recordings: list[Path], tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    _embed(recordings, tmp_path)
    before = _contents(tmp_path)
    file = tmp_path / "shard-00001.safetensors"
    if damage == "changed":
        file.write_bytes(before[file.name][:-1] + bytes([before[file.name][-1] ^ 1]))
    elif damage == "cut off":
        file.write_bytes(before[file.name][:-9])
    elif damage == "missing":
        file.unlink()
    else:
        (tmp_path / "shard-00001.json").write_text('{"name": ')
    model = SpectrumMatryoshka()
    with caplog.at_level("WARNING", logger="mrl"):
        _embed(recordings, tmp_path, model)
    assert sum(map(len, model.backbone.batches)) == 7
    assert _contents(tmp_path) == before
    assert ("shard-00001 is made again" in caplog.text) == (damage != "description")


def test_memory_does_not_grow_with_the_input(recordings: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts what is alive: recordings while any is decoded, and results when the next shard begins."""
    usable = [path for path in recordings if path.name[0].isdigit()]
    alive, most, load, map_files = {"audio": 0, "results": 0}, {"audio": 0}, extraction.load_audio, extraction.map_files

    def died(kind: str) -> None:
        alive[kind] -= 1

    def counted_load(*arguments: Any, **changes: Any) -> Any:
        waveform = load(*arguments, **changes)
        alive["audio"] += 1
        most["audio"] = max(most["audio"], alive["audio"])
        weakref.finalize(waveform, died, "audio")
        return waveform

    def counted_map(*arguments: Any, **changes: Any) -> Any:
        assert alive == {"audio": 0, "results": 0}
        mapped = map_files(*arguments, **changes)
        alive["results"] += 1
        weakref.finalize(mapped, died, "results")
        return mapped

    monkeypatch.setattr(extraction, "load_audio", counted_load)
    monkeypatch.setattr(extraction, "map_files", counted_map)
    model = SpectrumMatryoshka()
    _embed(usable, tmp_path, model, shard_size=9, batch_seconds=0.4, num_workers=1)
    longest = max(map(len, model.backbone.batches))
    assert len(usable) == 18 and 1 < longest <= 4
    assert 0 < most["audio"] <= 4 * longest < 18


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_dim": 8}, "dim 16 instead of 8"),
        ({"shard_size": 9}, "shard_size 8 instead of 9"),
        ({"max_seconds": 0.2}, "max_seconds null instead of 0.2"),
        ({"shard_format": "npz"}, "suffix"),
    ],
)
def test_another_job_is_refused(recordings: list[Path], tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    _embed(recordings, tmp_path)
    before = _contents(tmp_path)
    with pytest.raises(DataError, match=message):
        _embed(recordings, tmp_path, **changes)
    assert _contents(tmp_path) == before


def test_other_recordings_and_another_network_are_refused(recordings: list[Path], tmp_path: Path) -> None:
    _embed(recordings, tmp_path)
    with pytest.raises(DataError, match="recordings 21 instead of 20"):
        _embed(recordings[:-1], tmp_path)
    with pytest.raises(DataError, match="recordings_sha256"):
        _embed(recordings[::-1], tmp_path)
    other = SpectrumMatryoshka()
    other.head.weight.data.mul_(2)
    with pytest.raises(DataError, match="model_sha256"):
        _embed(recordings, tmp_path, other)


def test_foreign_folders_and_files_are_left_alone(recordings: list[Path], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(DataError, match="holds other files \\('mine.txt'"):
        _embed(recordings, tmp_path)
    with pytest.raises(DataError, match="is a file"):
        _embed(recordings, tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_two_runs_do_not_write_to_one_folder(recordings: list[Path], tmp_path: Path) -> None:
    _embed(recordings, tmp_path)
    with FileLock(tmp_path / ".lock"), pytest.raises(DataError, match="another process is writing"):
        _embed(recordings, tmp_path)


def test_a_full_disk_leaves_what_is_finished(recordings: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(descriptor)

    monkeypatch.setattr(mrl.files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        _embed(recordings, tmp_path)
    assert sorted(_contents(tmp_path)) == ["job.json", "shard-00000.json", "shard-00000.safetensors"]
    model = SpectrumMatryoshka()
    _embed(recordings, tmp_path, model)
    assert sum(map(len, model.backbone.batches)) == 11


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shard_size": 0}, "at least 1 recording"),
        ({"shard_format": "csv"}, "safetensors"),
        ({"target_dim": 17}, r"1\.\.16"),
        ({"batch_seconds": 0}, "batch_seconds"),
    ],
)
def test_unusable_arguments(recordings: list[Path], tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        _embed(recordings, tmp_path / "e", **changes)


def test_names_that_cannot_be_written_down_or_told_apart(recordings: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 of 22 recordings are named twice"):
        _embed([*recordings, recordings[0]], tmp_path / "e")
    with pytest.raises(InputError, match="not UTF-8"):
        _embed([Path(os.fsdecode(b"caf\xe9.wav"))], tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_the_log_tells_how_far_it_is(recordings: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="mrl"):
        _embed(recordings, tmp_path)
    lines = [record.message for record in caplog.records]
    assert [line.split(":")[0] for line in lines] == [f"shard {number} of 3 written" for number in (1, 2, 3)]
    assert all("recordings per second" in line for line in lines) and lines[-1].endswith("0 min 00 s left")


def test_the_bar_counts_every_recording_once(recordings: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of finished shards at the beginning, so that they do not count as this run's speed."""
    steps: list[int] = []
    totals: list[int] = []

    @contextlib.contextmanager
    def bar(description: str, total: int, **changes: Any) -> Iterator[Callable[[int], None]]:
        totals.append(total)
        yield steps.append

    monkeypatch.setattr(writing, "progress_bar", bar)
    _embed(recordings, tmp_path)
    assert sum(steps) == 21 and steps[0] == 0 and min(steps) >= 0 and max(steps) < 8
    (tmp_path / "shard-00001.json").unlink()
    steps.clear()
    _embed(recordings, tmp_path)
    assert sum(steps) == 21 and steps[0] == 13 and totals == [21, 21]


def test_what_a_folder_is(tmp_path: Path) -> None:
    (tmp_path / "old.v1").mkdir()
    assert means_folder(tmp_path / "old.v1") and means_folder("voices")
    assert means_folder("voices.v2", shard_size=5) and means_folder("voices.v2", shard_format="npz")
    assert not means_folder("voices.npz") and not means_folder("voices.v2")
    with pytest.raises(InputError, match="one file"):
        means_folder("voices.npz", shard_size=5)


def test_nothing_usable_leaves_a_folder_that_says_so(tmp_path: Path) -> None:
    for shard_format in ("safetensors", "npz", "parquet"):
        done = _embed([tmp_path / "absent.wav"], tmp_path / shard_format, shard_format=shard_format)
        assert len(done.failures) == 1 and len(done.embeddings) == 0
        assert load_embeddings(tmp_path / shard_format).matrix.shape == (0, 16)


def test_folders_that_are_none(recordings: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no embeddings"):
        ShardedEmbeddings.open(tmp_path)
    _embed(recordings, tmp_path)
    index = (tmp_path / "index.json").read_text()
    shard = tmp_path / "shard-00000.safetensors"
    contents = shard.read_bytes()
    shard.write_bytes(contents[:-1])
    with pytest.raises(DataError, match="cut off"):
        ShardedEmbeddings.open(tmp_path)
    shard.write_bytes(contents[:-1] + b"\0" if contents[-1] else contents[:-1] + b"\1")
    with pytest.raises(DataError, match="SHA-256"):
        ShardedEmbeddings.open(tmp_path).verify()
    shard.write_bytes(contents)
    for spoilt in ("", index[:-9], "[]", '{"format": 1}', index.replace('"format": 1', '"format": 9', 1)):
        (tmp_path / "index.json").write_text(spoilt)
        with pytest.raises(DataError, match="index.json"):
            ShardedEmbeddings.open(tmp_path)
    (tmp_path / "index.json").write_text(index.replace('"rows": 7', '"rows": 6', 1))
    with pytest.raises(DataError, match="the index says"):
        load_embeddings(tmp_path)

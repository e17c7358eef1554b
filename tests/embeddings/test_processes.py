"""Several processes that embed together."""

from __future__ import annotations

import datetime
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.audio import write_synthetic_corpus
from mrl.cli.main import run
from mrl.embeddings import Processes, load_embeddings
from mrl.errors import DataError, ProcessError, ReportedElsewhereError
from mrl.lengths import split_by_length
from tests.pretrained.small import write_small_checkpoint

_TIME_ENOUGH = 120


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint, seven voices of different lengths, and a list of them with two files that cannot be read."""
    folder = tmp_path_factory.mktemp("processes")
    write_small_checkpoint(folder / "small.pt")
    lengths = (0.4, 1.6)
    voices = write_synthetic_corpus(folder / "voices", num_speakers=7, utterances_per_speaker=1, seconds=lengths, seed=3)
    (folder / "bad.wav").write_text("not audio")
    listed = [*voices[:2], folder / "bad.wav", *voices[2:6], folder / "absent.wav", voices[6]]
    (folder / "list.txt").write_text("\n".join(map(str, listed)))
    return folder


def _environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    places = {"RANK": rank, "WORLD_SIZE": world_size, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in places.items()}}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _run_together(*commands: list[str]) -> list[tuple[int, str, str]]:
    """Run one command for each process of a job; return their statuses, outputs and messages."""
    port = _free_port()
    started = [
        subprocess.Popen(
            [sys.executable, *command],
            env=_environment(rank, len(commands), port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, command in enumerate(commands)
    ]
    try:
        said = [process.communicate(timeout=_TIME_ENOUGH) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(started, said, strict=True)]


def _embed(place: Path, output: Path, *, model: str = "small.pt", inputs: str = "list.txt") -> list[str]:
    return ["-m", "mrl", "embed", str(place / inputs), "-o", str(output), "--model", str(place / model)]


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.dictionaries(st.integers(0, 1000), st.floats(0.01, 1000), max_size=40),
    num_shares=st.integers(1, 9),
)
def test_shares_cover_everything_once_and_differ_by_the_longest_at_most(lengths: dict[int, float], num_shares: int) -> None:
    shares = split_by_length(lengths, num_shares)
    assert len(shares) == num_shares
    assert sorted(index for share in shares for index in share) == sorted(lengths)
    assert all(share == sorted(share) for share in shares)
    totals = [sum(lengths[index] for index in share) for share in shares]
    assert max(totals) - min(totals) <= max(lengths.values(), default=0.0) + 1e-9
    assert split_by_length(dict(reversed(lengths.items())), num_shares) == shares


def test_equal_lengths_and_empty_ones_are_dealt_evenly() -> None:
    assert split_by_length(dict.fromkeys(range(5), 1.0), 2) == [[0, 2, 4], [1, 3]]
    assert split_by_length(dict.fromkeys(range(4), 0.0), 2) == [[0, 2], [1, 3]]


def test_torchrun_embeds_like_one_process(place: Path, tmp_path: Path) -> None:
    alone = subprocess.run([sys.executable, *_embed(place, tmp_path / "one.npz")], capture_output=True, text=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    together = subprocess.run(
        [*command, *_embed(place, tmp_path / "three.npz")], capture_output=True, text=True, timeout=_TIME_ENOUGH
    )
    assert alone.returncode == 1 and together.returncode == 1, together.stderr  # two recordings cannot be used
    one, three = load_embeddings(tmp_path / "one.npz"), load_embeddings(tmp_path / "three.npz")
    assert len(one.ids) == 7 and three.ids == one.ids
    assert three.metadata == one.metadata
    np.testing.assert_allclose(three.matrix, one.matrix, rtol=1e-5, atol=1e-6 * float(np.abs(one.matrix).max()))
    assert together.stdout == alone.stdout.replace("one.npz", "three.npz")
    for line in alone.stderr.splitlines():
        assert together.stderr.count(line) == 1, line
    assert len(list(tmp_path.iterdir())) == 2


def test_shards_of_several_processes_are_those_of_one(place: Path, tmp_path: Path) -> None:
    def embed(folder: str) -> list[str]:
        return [*_embed(place, tmp_path / folder), "--shard-size", "4"]

    assert run(embed("one")[2:]) == 1  # two recordings cannot be used
    found = _run_together(embed("two"), embed("two"))
    assert [status for status, _, _ in found] == [1, 0], found
    assert "in 3 shards written" in found[0][1] and "2 of 9 recordings" in found[0][2] and found[1][1:] == ("", "")
    one, two = load_embeddings(tmp_path / "one"), load_embeddings(tmp_path / "two")
    assert len(one.ids) == 7 and two.ids == one.ids and two.metadata == one.metadata
    np.testing.assert_allclose(two.matrix, one.matrix, rtol=1e-5, atol=1e-6 * float(np.abs(one.matrix).max()))
    assert (tmp_path / "two" / "failures.tsv").read_bytes() == (tmp_path / "one" / "failures.tsv").read_bytes()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    refused = _run_together(embed("mine"), embed("mine"))
    assert [status for status, _, _ in refused] == [2, 0]
    assert refused[0][2].startswith("mrl embed: error: ") and "holds other files" in refused[0][2] and refused[1][2] == ""


def test_each_process_computes_its_share_and_gets_everything(place: Path) -> None:
    script = """
import json, sys
import numpy as np
from mrl.embeddings import Processes, map_files
seen = []
def summarise(waveforms):
    seen.extend(len(waveform) for waveform in waveforms)
    rows = np.array([[len(waveform), np.abs(waveform).max()] for waveform in waveforms], dtype=np.float32)
    rows[rows[:, 0] == int(sys.argv[2])] = np.nan
    return rows, rows[:, :1] / 16000
with Processes.from_environment().together() as processes:
    paths = open(sys.argv[1]).read().split()
    mapped = map_files(summarise, paths, batch_seconds=2.0, processes=processes)
    shares = sorted(seen)
    fewer_than_processes = map_files(summarise, paths[:1], processes=processes)
    none_readable = map_files(summarise, paths[2:3], processes=processes)
failures = [(str(path), reason) for path, reason in mapped.failures]
few = [fewer_than_processes.matrices[0].tolist(), len(none_readable.matrices), len(none_readable.failures)]
print(json.dumps([shares, mapped.kept, [matrix.tolist() for matrix in mapped.matrices], failures, few]))
"""
    paths = [Path(line) for line in (place / "list.txt").read_text().splitlines()]
    samples = {at: len(soundfile.read(path)[0]) for at, path in enumerate(paths) if path.suffix == ".flac"}
    spoilt = min(samples, key=lambda at: samples[at])  # the network gives NaN for this one
    command = ["-c", script, str(place / "list.txt"), str(samples[spoilt])]
    found = [json.loads(out) for _, out, _ in _run_together(command, command)]
    shares = [share for share, *_ in found]
    assert all(shares) and sorted(shares[0] + shares[1]) == sorted(samples.values())
    assert abs(sum(shares[0]) - sum(shares[1])) <= max(samples.values())
    assert found[0][1:] == found[1][1:]
    _, kept, (both, seconds), failures, few = found[0]
    assert few == [both[:1], 0, 1]
    assert kept == [at for at in samples if at != spoilt]
    assert [row[0] for row in both] == [samples[at] for at in kept]
    assert [row[0] for row in seconds] == pytest.approx([samples[at] / 16000 for at in kept], rel=1e-6)
    assert [path for path, _ in failures] == [str(paths[at]) for at in sorted({2, 7, spoilt})]
    assert "NaN" in dict(failures)[str(paths[spoilt])]


def test_a_process_that_fails_ends_the_job_with_its_reason(place: Path, tmp_path: Path) -> None:
    good, bad = _embed(place, tmp_path / "e.npz"), _embed(place, tmp_path / "e.npz", model="absent.pt")
    (first, first_out, first_error), (second, second_out, second_error) = _run_together(good, bad)
    assert (first, second) == (2, 2)
    assert second_error == f"mrl embed (process 1 of 2): error: checkpoint {place / 'absent.pt'} does not exist\n"
    assert re.fullmatch(r"mrl embed: error: process 0 of 2 has lost the others: one has ended early .*\n", first_error)
    assert first_out == second_out == ""
    assert not list(tmp_path.iterdir())


def test_processes_with_different_recordings_are_told_apart(place: Path, tmp_path: Path) -> None:
    (place / "fewer.txt").write_text("\n".join((place / "list.txt").read_text().splitlines()[:4]))
    found = _run_together(_embed(place, tmp_path / "e.npz"), _embed(place, tmp_path / "e.npz", inputs="fewer.txt"))
    assert [status for status, _, _ in found] == [2, 2]
    assert "the processes were given different recordings (9, 4 of them)" in found[0][2]
    assert not list(tmp_path.iterdir())


def test_a_process_that_hangs_is_not_waited_for_without_end() -> None:
    script = """
import datetime, sys, time
from mrl.embeddings import Processes
from mrl.errors import ProcessError
processes = Processes.from_environment()
try:
    with processes.together(timeout=datetime.timedelta(seconds=2)):
        if processes.rank == 1:
            sys.stdin.read()
        processes.exchange([])
except ProcessError as error:
    sys.exit(str(error))
"""
    port = _free_port()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script], env=_environment(rank, 2, port), stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for rank in range(2)
    ]
    try:
        _, said = started[0].communicate(timeout=_TIME_ENOUGH)
        assert started[0].returncode == 1
        assert b"process 0 of 2 has lost the others" in said
        assert started[1].poll() is None
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_a_process_that_nobody_joins_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in _environment(1, 2, _free_port()).items():
        monkeypatch.setenv(name, value)
    began = time.monotonic()
    with (
        pytest.raises(ProcessError, match=r"process 1 of 2 cannot reach the others \(.*\); MASTER_ADDR and MASTER_PORT must be"),
        Processes.from_environment().together(meeting=datetime.timedelta(seconds=1)),
    ):
        pass
    assert time.monotonic() - began < 60
    assert not torch.distributed.is_initialized()


def test_each_process_has_its_own_gpu() -> None:
    third = Processes(rank=6, world_size=8, local_rank=2)
    assert third.device("cuda") == "cuda:2"
    assert third.device("cuda:0") == "cuda:0" and third.device("cpu") == "cpu"
    assert Processes().device("cuda") == "cuda"


def test_only_the_first_process_tells_of_an_error_that_all_run_into() -> None:
    error = DataError("3 of 9 recordings cannot be used")
    assert Processes(rank=0, world_size=2).common_error(error) is error
    other = Processes(rank=1, world_size=2).common_error(error)
    assert isinstance(other, ReportedElsewhereError) and str(other) == str(error)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "0"}, "must both be whole numbers"),
        ({"WORLD_SIZE": "2"}, "must both be whole numbers"),
        ({"RANK": "first", "WORLD_SIZE": "2"}, "must both be whole numbers"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, r"must lie in 0\.\.WORLD_SIZE - 1"),
    ],
)
def test_a_place_that_makes_no_sense(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ProcessError, match=message):
        Processes.from_environment()

"""Surveys in one and several processes, interrupted ones, and recordings that kill the reader."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mrl.audio.examining import Stretch, StretchFacts, examine_all
from mrl.data import surveying
from mrl.data.surveying import survey
from mrl.errors import InputError, ProcessError
from tests.data import recordings


@pytest.fixture
def stretches(tmp_path: Path) -> list[Stretch]:
    names = [f"{number}.wav" for number in range(9)]
    paths = [recordings.write(tmp_path / name, recordings.noise(seed, 0.1)) for seed, name in enumerate(names)]
    paths[4].write_bytes(b"damaged")
    return [Stretch(path) for path in paths]


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surveying, "_BATCH", 2)
    monkeypatch.setattr(surveying, "_WORTH_A_PROCESS", 1)


def test_processes_find_the_same(stretches: list[Stretch], small_batches: None) -> None:
    alone = survey(stretches, num_workers=0)
    assert [facts.error is None for facts in alone] == [True] * 4 + [False] + [True] * 4
    assert len({facts.content for facts in alone}) == 9
    assert survey(stretches, num_workers=2) == alone
    assert survey([], num_workers=2) == []


def test_a_recording_that_kills_its_reader_costs_itself_only(
    stretches: list[Stretch], small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stretches[2].path.rename(stretches[2].path.with_name("crash.wav"))
    stretches[2] = Stretch(stretches[2].path.with_name("crash.wav"))
    expected = survey(stretches, num_workers=0)
    monkeypatch.setattr(surveying, "examine_all", recordings.dying_examine_all)
    found = survey(stretches, num_workers=2)
    assert found[2].error is not None and "a decoder crashed on it" in found[2].error
    assert found[:2] + found[3:] == expected[:2] + expected[3:]


def test_processes_that_cannot_start_are_reported(
    stretches: list[Stretch], small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surveying, "examine_all", recordings.dying_at_once)
    with pytest.raises(ProcessError, match="no process can be started .* --num-workers 1"):
        survey(stretches, num_workers=2)


def test_a_finished_part_is_not_examined_again(stretches: list[Stretch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = tmp_path / ".journal"
    expected = survey(stretches)
    asked: list[str] = []

    def interrupted_after(count: int) -> None:
        def examine(some: list[Stretch], decode: bool = True) -> list[StretchFacts]:
            if len(asked) == count:
                raise KeyboardInterrupt
            asked.extend(one.path.name for one in some)
            return examine_all(some, decode)

        asked.clear()
        monkeypatch.setattr(surveying, "examine_all", examine)

    interrupted_after(6)
    with pytest.raises(KeyboardInterrupt):
        survey(stretches, journal=journal)
    journal.write_bytes(journal.read_bytes()[:-5])  # as if killed in the middle of a line
    stretches[0].path.touch()  # changed since
    interrupted_after(100)
    assert [facts.content for facts in survey(stretches, journal=journal)] == [facts.content for facts in expected]
    assert asked == ["0.wav", "5.wav", "6.wav", "7.wav", "8.wav"]
    asked.clear()
    assert survey(stretches, journal=journal)[5] == expected[5] and asked == []
    # Headers say less: what a survey of headers found is no answer to the other.
    assert survey(stretches, journal=journal, decode=False)[5].content is None and len(asked) == 9
    asked.clear()
    assert survey(stretches, journal=journal)[5].content == expected[5].content


def test_a_damaged_journal_is_passed_over(stretches: list[Stretch], tmp_path: Path) -> None:
    journal = tmp_path / ".journal"
    heading = json.dumps({"version": 1, "decode": True})
    lines = ["\x00\xff", "[1]", "null", heading, '["a", 0, null, 3]', '["a", 0, null, [1]]', json.dumps([str(stretches[0].path)])]
    journal.write_bytes("\n".join(lines).encode("latin-1"))
    assert survey(stretches, journal=journal) == survey(stretches)


def test_a_killed_survey_resumes(stretches: list[Stretch], tmp_path: Path) -> None:
    journal = tmp_path / ".journal"
    code = f"""
import os, signal
from pathlib import Path
from mrl.audio.examining import Stretch, examine_all
from mrl.data import surveying
count = 0
def examine(some, decode=True):
    global count
    count += 1
    if count > 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return examine_all(some, decode)
surveying.examine_all = examine
surveying.survey([Stretch(Path({str(tmp_path)!r}) / f"{{number}}.wav") for number in range(9)], journal={str(journal)!r})
"""
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    notes = [line for line in journal.read_text().splitlines() if line.startswith("[")]
    assert len(notes) == 5
    assert survey(stretches, journal=journal) == survey(stretches)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full")
def test_a_full_disk_is_reported(stretches: list[Stretch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surveying, "read_journal", lambda path, decode: {})  # reading /dev/full never ends
    journal = tmp_path / ".journal"
    journal.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        survey(stretches, journal=journal)


def test_negative_workers(stretches: list[Stretch]) -> None:
    with pytest.raises(InputError, match="num_workers is -1"):
        survey(stretches, num_workers=-1)

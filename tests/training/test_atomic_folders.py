"""Folders that replace others: there is always a valid one, or one that is brought back."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mrl.errors import TrainingError
from mrl.training import folders as atomic_folders
from mrl.training.folders import exchange_folders, recover_folders, replace_folder

# Dies by SIGKILL at the moment that the first argument names, while best/ (the second) goes from "one" to "two".
_DYING = """
import os, signal, shutil, sys
from pathlib import Path
from mrl.training import folders as atomic_folders
moment, target = sys.argv[1], Path(sys.argv[2])
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
renames = []
def rename(self, to, original=Path.rename):
    if len(renames) == {"before": 0, "between": 1}.get(moment, -1):
        die()
    renames.append(to)
    return original(self, to)
Path.rename = rename
if moment == "exchanged":
    shutil.rmtree = die
else:
    atomic_folders.exchange_folders = lambda one, other: False
    if moment == "after":
        shutil.rmtree = die
atomic_folders.replace_folder(target, lambda folder: (folder / "x").write_text("two"))
"""


def _write(target: Path, text: str) -> None:
    replace_folder(target, lambda folder: (folder / "x").write_text(text))


@pytest.mark.parametrize(
    ("moment", "there", "after"),
    [("before", True, "one"), ("between", False, "one"), ("after", True, "two"), ("exchanged", True, "two")],
)
def test_a_kill_at_any_moment_leaves_a_valid_folder(tmp_path: Path, moment: str, there: bool, after: str) -> None:
    target = tmp_path / "best"
    _write(target, "one")
    if moment == "exchanged" and not _exchanges(tmp_path):
        pytest.skip("this file system cannot exchange folders")
    done = subprocess.run([sys.executable, "-c", _DYING, moment, str(target)], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert target.exists() is there
    assert recover_folders(tmp_path) == ([] if there else [target])
    assert (target / "x").read_text() == after
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    assert recover_folders(tmp_path) == []


@pytest.mark.parametrize("exchange", [True, False])
def test_replacing_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    if not exchange:
        monkeypatch.setattr(atomic_folders, "exchange_folders", lambda one, other: False)
    target = tmp_path / "best"
    for text in ("one", "two"):
        _write(target, text)
        assert (target / "x").read_text() == text

    def fail(folder: Path) -> None:
        (folder / "x").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(TrainingError, match="best cannot be written"):
        replace_folder(target, fail)
    assert (target / "x").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_rename_that_fails_brings_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "best"
    _write(target, "one")
    rename = Path.rename

    def refusing(self: Path, to: Path) -> Path:
        if self.suffix == ".tmp":
            raise OSError(5, "Input/output error")
        return rename(self, to)

    monkeypatch.setattr(atomic_folders, "exchange_folders", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", refusing)
    with pytest.raises(TrainingError, match="Input/output error"):
        _write(target, "two")
    assert (target / "x").read_text() == "one" and [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_reader_never_misses_the_folder(tmp_path: Path) -> None:
    if not _exchanges(tmp_path):
        pytest.skip("this file system cannot exchange folders")
    target = tmp_path / "best"
    _write(target, "0")
    ended = threading.Event()
    missed = []

    def read() -> None:
        while not ended.is_set():
            if not target.exists():
                missed.append(True)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(100):
        _write(target, str(number))
    ended.set()
    reader.join()
    assert not missed


def test_other_hidden_folders_stay(tmp_path: Path) -> None:
    for name in (".git", ".cache.tmp", ".best.zz.tmp"):
        (tmp_path / name).mkdir()
    assert recover_folders(tmp_path) == [] and len(list(tmp_path.iterdir())) == 3


def _exchanges(folder: Path) -> bool:
    one, other = folder / "exchange-1", folder / "exchange-2"
    one.mkdir()
    other.mkdir()
    (one / "mark").touch()
    done = exchange_folders(one, other)
    assert (other / "mark").exists() is done
    (other / "mark" if done else one / "mark").unlink()
    one.rmdir()
    other.rmdir()
    return done

"""Faults: killed writers, damaged and foreign files, no room, no permission, readers beside a writer."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mrl.errors import DataError
from mrl.identification import VoiceStore, database, export_voices, voice_matrix
from mrl.identification.voice_matrix import load_voices
from tests.identification.makers import MODEL, filled_store, speakers

_WRITER = """
import sys, numpy as np
from mrl.identification import VoiceStore
store = VoiceStore.open_or_create(sys.argv[1], embed_dim=64)
number = 0
while True:
    rows = np.random.default_rng(number).standard_normal((3, 64))
    store.add(f"k{number}", rows, [1.0, 2.0, 3.0], model_hash="a" * 64)
    if number % 3 == 2:
        store.remove([f"k{number - 1}"])
    print(number, flush=True)
    number += 1
"""


@pytest.mark.parametrize("extra_seconds", [0.0, 0.013, 0.031])
def test_killed_while_writing(extra_seconds: float, tmp_path: Path) -> None:
    path = tmp_path / "voices.sqlite"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True, env=environment)
    assert writer.stdout is not None
    done = -1
    while done < 4:
        done = int(writer.stdout.readline())
    time.sleep(extra_seconds)
    writer.send_signal(signal.SIGKILL)
    rest = writer.communicate()[0].split()
    done = int(rest[-1]) if rest else done
    store = VoiceStore(path)
    for voice in store.voices():
        assert (voice.recordings, voice.seconds) == (3, 6.0)  # whole voices only
    names = {voice.name for voice in store.voices()}
    assert {f"k{number}" for number in range(done + 1) if number % 3 != 1} <= names  # what was reported done is there
    with sqlite3.connect(path) as opened:
        assert opened.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    opened.close()
    store.add("after", speakers(1, 64), [1.0], model_hash=MODEL)
    assert len(load_voices(store)) == len(store) == len(names) + 1


def test_truncated(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "voices.sqlite", 40, dim=64)
    whole = store.path.read_bytes()
    for size in (len(whole) // 2, 4096, 100, 17):
        store.path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"damaged or cut off|no voice store"):
            VoiceStore(store.path).voices()


def test_damaged_embedding(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "voices.sqlite", 3, dim=64)
    with sqlite3.connect(store.path) as opened:
        opened.execute("UPDATE recordings SET embedding = ? WHERE id = 2", (b"\xff" * 256,))
    opened.close()
    with pytest.raises(DataError, match="hold NaN"):
        store.embedding("v0001")
    with pytest.raises(DataError, match="hold NaN"):
        load_voices(store)
    with sqlite3.connect(store.path) as opened:
        opened.execute("UPDATE recordings SET embedding = 'short' WHERE id = 2")
    opened.close()
    with pytest.raises(DataError, match="not of 256 bytes"):
        load_voices(store)


def test_not_a_store(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no voice store"):
        VoiceStore(tmp_path / "absent.sqlite")
    text = tmp_path / "text.sqlite"
    text.write_text("hello " * 500)
    with pytest.raises(DataError, match="no SQLite file"):
        VoiceStore(text)
    with pytest.raises(DataError, match="no SQLite file"):
        VoiceStore.open_or_create(text, embed_dim=8)
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as opened:
        opened.execute("CREATE TABLE t (x)")
    opened.close()
    with pytest.raises(DataError, match="a SQLite file but no voice store"):
        VoiceStore.open_or_create(other, embed_dim=8)
    store = filled_store(tmp_path / "later.sqlite", 1)
    with sqlite3.connect(store.path) as opened:
        opened.execute("PRAGMA user_version = 9")
    opened.close()
    with pytest.raises(DataError, match="voice store of version 9"):
        VoiceStore(store.path)


def test_a_creation_that_was_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "voices.sqlite"
    path.touch()
    with pytest.raises(DataError, match="there is no voice store"):
        VoiceStore(path)
    assert len(filled_store(path, 2)) == 2


def test_a_creation_that_was_cut_short_while_it_was_written(tmp_path: Path) -> None:
    """The file has pages, and a journal that says that it was empty."""
    path = tmp_path / "voices.sqlite"
    whole = filled_store(path, 1).path.read_bytes()
    magic, count, nonce, pages, sector, page = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7", 0, 1, 0, 512, 4096
    head = magic + b"".join(number.to_bytes(4, "big") for number in (count, nonce, pages, sector, page))
    Path(f"{path}-journal").write_bytes(head.ljust(sector, b"\0"))
    path.write_bytes(whole[: 2 * page])
    assert len(filled_store(path, 2)) == 2 and not Path(f"{path}-journal").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_export_to_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled_store(tmp_path / "voices.sqlite", 2)
    original = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *a, **k: original(Path("/dev/full") if a == ("w",) else path, *a, **k))
    with pytest.raises(OSError, match=r"No space left.*v\.jsonl"):
        export_voices(store, tmp_path / "v.jsonl")
    monkeypatch.undo()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["voices.sqlite"]


def test_full_disk_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled_store(tmp_path / "voices.sqlite", 2, dim=256)
    before = store.voices()
    pages = 4

    def small_disk(path: Path, **options: bool):  # type: ignore[no-untyped-def]
        return _limited(original(path, **options), pages)

    original = database.connection
    monkeypatch.setattr(database, "connection", small_disk)
    with pytest.raises(DataError, match="disk is full, nothing was changed"):
        store.add("big", speakers(400), [1.0] * 400, model_hash=MODEL)
    monkeypatch.undo()
    assert store.voices() == before


class _limited:
    """A connection whose database may not grow: SQLite then reports what a full disk gives (SQLITE_FULL)."""

    def __init__(self, manager, pages: int) -> None:  # type: ignore[no-untyped-def]
        self._manager, self._pages = manager, pages

    def __enter__(self) -> sqlite3.Connection:
        opened: sqlite3.Connection = self._manager.__enter__()
        opened.execute(f"PRAGMA max_page_count = {self._pages}")
        return opened

    def __exit__(self, *error: object) -> bool | None:
        result: bool | None = self._manager.__exit__(*error)
        return result


def test_no_room_for_a_side_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled_store(tmp_path / "voices.sqlite", 5)

    def full(descriptor: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(voice_matrix, "_reserve", full)
    with pytest.raises(DataError, match=r"search-8 cannot be written \(No space left on device\)"):
        load_voices(store, side_file_voices=1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["voices.sqlite", "voices.sqlite.search-lock"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "voices.sqlite", 5)
    store.path.chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        assert len(load_voices(VoiceStore(store.path), side_file_voices=1)) == 5
        with pytest.raises(DataError, match=r"cannot be (written to|opened)"):
            store.add("x", speakers(1, 8, 9), [1.0], model_hash=MODEL)
    finally:
        tmp_path.chmod(0o700)


def test_read_only_store_is_read_and_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for root, who may write anywhere: the file is opened as one who may not would."""
    store = filled_store(tmp_path / "voices.sqlite", 5)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert len(load_voices(VoiceStore(store.path), side_file_voices=1)) == 5
    assert not list(tmp_path.glob("*.search-*"))
    with database.connection(store.path) as opened, pytest.raises(sqlite3.OperationalError, match="readonly"):
        opened.execute("PRAGMA query_only = OFF")
        opened.execute("DELETE FROM voices")


def test_readers_beside_a_writer(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "voices.sqlite", 10, dim=64)
    stop, seen, errors = threading.Event(), [], []

    def read() -> None:
        try:
            while not stop.is_set():
                seen.append(len(load_voices(VoiceStore(store.path))))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(15):
        store.add(f"w{number}", speakers(2, 64, number + 10), [1.0, 2.0], model_hash=MODEL)
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors and seen and set(seen) <= set(range(10, 26))
    assert len(load_voices(store)) == 25


def test_several_enrol_at_once_into_a_store_that_is_not_there_yet(tmp_path: Path) -> None:
    path = tmp_path / "voices.sqlite"
    rows = speakers(12)

    def enrol_some(first: int) -> None:
        for number in range(first, first + 3):
            store = VoiceStore.open_or_create(path, embed_dim=256)
            store.add(f"v{number}", rows[number][None], [1.0], model_hash=MODEL)

    with ThreadPoolExecutor(4) as threads:  # every method opens the file anew, as processes do
        list(threads.map(enrol_some, range(0, 12, 3)))
    store = VoiceStore(path)
    assert sorted(voice.name for voice in store.voices()) == sorted(f"v{number}" for number in range(12))
    assert all(np.array_equal(store.embedding(f"v{number}"), rows[number]) for number in range(12))


def test_a_writer_waits_and_then_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled_store(tmp_path / "voices.sqlite", 1)
    monkeypatch.setattr(database, "_WAIT_SECONDS", 0.05)
    with database.connection(store.path, write=True) as opened, database.transaction(opened, write=True):
        assert len(store) == 1  # readers go on
        with pytest.raises(DataError, match="another process has been writing"):
            store.add("x", speakers(1, 8, 9), [1.0], model_hash=MODEL)

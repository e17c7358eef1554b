"""Voice stores that somebody else has made or changed: no trace of a deleted voice stays, and no program in one is run."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from mrl.errors import DataError
from mrl.identification import VoiceStore, load_voices
from tests.identification.makers import filled_store


def change(path: Path, *statements: str) -> None:
    opened = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        opened.execute(statement)
    opened.close()


def test_a_write_ahead_log_keeps_no_deleted_voice(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "v.sqlite", 5)
    change(store.path, "PRAGMA journal_mode = WAL")
    gone = [one.embedding for one in store.stored_voices(["v0003"])[0].recordings]
    store.remove(["v0003"])
    for file in tmp_path.iterdir():
        assert not any(blob in file.read_bytes() for blob in gone), file
    assert not (tmp_path / "v.sqlite-wal").exists()
    opened = sqlite3.connect(store.path)
    assert opened.execute("PRAGMA journal_mode").fetchone()[0] == "delete"
    opened.close()


def test_a_write_ahead_log_that_another_program_holds(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "v.sqlite", 2)
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("PRAGMA journal_mode = WAL")
    other.execute("BEGIN")
    other.execute("SELECT * FROM voices").fetchall()
    with pytest.raises(DataError, match="keeps a write-ahead log"):
        store.add("x", [[1.0] * 8], [1.0], model_hash="a" * 64)
    other.close()
    assert len(store) == 2


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TRIGGER t AFTER DELETE ON voices BEGIN INSERT INTO facts VALUES ('copy', OLD.name); END"],
        [
            "ALTER TABLE voices RENAME TO hidden",
            "CREATE VIEW voices AS WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) SELECT id, id AS name, 1 AS "
            "model, '' AS enrolled_at, '' AS updated_at FROM n",
        ],
        ["CREATE TABLE more (x)"],
        ["DROP INDEX recordings_of_voice"],
    ],
)
def test_programs_in_a_store_are_refused(statements: list[str], tmp_path: Path) -> None:
    store = filled_store(tmp_path / "v.sqlite", 2)
    change(store.path, *statements)
    with pytest.raises(DataError, match="no voice store as this package makes it"):
        VoiceStore(store.path)
    with pytest.raises(DataError, match="no voice store as this package makes it"):
        load_voices(store)


@pytest.mark.parametrize("dim", ["0", "-8", "x", "1e9", "9" * 30, ""])
def test_nonsense_in_the_facts(dim: str, tmp_path: Path) -> None:
    store = filled_store(tmp_path / "v.sqlite", 1)
    change(store.path, f"UPDATE facts SET value = '{dim}' WHERE name = 'embed_dim'")
    with pytest.raises(DataError, match="does not say what it holds"):
        VoiceStore(store.path)


def test_cleaning_that_is_due_does_not_stop_a_search(tmp_path: Path) -> None:
    store = filled_store(tmp_path / "v.sqlite", 3)
    change(store.path, "INSERT INTO facts VALUES ('cleaning_due', 'x')")
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert len(load_voices(store)) == 3
    other.execute("ROLLBACK")
    other.close()
    assert len(load_voices(store)) == 3
    opened = sqlite3.connect(store.path)
    assert opened.execute("SELECT count(*) FROM facts WHERE name = 'cleaning_due'").fetchone() == (0,)
    opened.close()

"""The SQLite file of a voice store: its tables, how it is opened, and its errors in one clear line.

Transactions are atomic and durable (rollback journal, ``synchronous=EXTRA``): a process killed at any moment leaves the file as
it was before its transaction. There are any number of readers and one writer at a time; each waits for the other, up to 30 s.
A rollback journal is used rather than a write-ahead log because the log would keep deleted voices until every reader has left.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from mrl.errors import DataError

APPLICATION_ID = 0x4D524C56  # "MRLV"
SCHEMA_VERSION = 1
_WAIT_SECONDS = 30.0

SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE models (id INTEGER PRIMARY KEY, model_hash TEXT NOT NULL, calibration_hash TEXT NOT NULL,
                     UNIQUE (model_hash, calibration_hash));
CREATE TABLE voices (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, model INTEGER NOT NULL REFERENCES models,
                     enrolled_at TEXT NOT NULL, updated_at TEXT NOT NULL);
CREATE TABLE recordings (id INTEGER PRIMARY KEY, voice INTEGER NOT NULL REFERENCES voices ON DELETE CASCADE,
                         seconds REAL NOT NULL, embedding BLOB NOT NULL);
CREATE INDEX recordings_of_voice ON recordings (voice);
"""
"""Numbers of voices are never used twice (AUTOINCREMENT), so one that was kept elsewhere never means another voice."""


@contextlib.contextmanager
def connection(path: Path, *, write: bool = False, create: bool = False) -> Iterator[sqlite3.Connection]:
    """Open the file of a store, close it after the block.

    A reader opens a file that it may write to for writing too: what a killed writer left half-done is then undone.

    Args:
        path: the file.
        write: changes are meant; a reader's connection refuses them.
        create: make the file where there is none.

    Raises:
        DataError: the file is missing, no store, damaged, of a later version, locked for too long or cannot be written; or the
            disk is full. Nothing has changed then.
    """
    if not create and not (path.is_file() and path.stat().st_size):  # an empty one is left by a full disk or a kill
        raise DataError(f"there is no voice store {path}; enrol a voice first (mrl enroll), or name another file (--store)")
    mode = "rwc" if create else "rw" if write or os.access(path, os.W_OK) else "ro"
    with clear_errors(path):
        # isolation_level None: transactions begin and end where this package says so.
        opened = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=_WAIT_SECONDS, isolation_level=None)
        with contextlib.closing(opened) as database:
            database.execute("PRAGMA secure_delete = ON")
            database.execute("PRAGMA synchronous = EXTRA")
            database.execute("PRAGMA foreign_keys = ON")
            database.execute("PRAGMA temp_store = MEMORY")  # no voice goes to a folder for temporary files
            if not create:
                require_store(path, database)
            if not write and not create:
                database.execute("PRAGMA query_only = ON")
            yield database


@contextlib.contextmanager
def transaction(database: sqlite3.Connection, *, write: bool) -> Iterator[None]:
    """Let the block see one state of the file, and its changes happen as a whole or not at all."""
    database.execute("BEGIN IMMEDIATE" if write else "BEGIN")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        # After some errors (a full disk) SQLite has rolled back by itself.
        with contextlib.suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise


def require_store(path: Path, database: sqlite3.Connection) -> None:
    """Raise :class:`DataError` unless the file is a voice store that this version reads."""
    application = database.execute("PRAGMA application_id").fetchone()[0]
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID:
        raise DataError(f"{path} is a SQLite file but no voice store; name another file (--store)")
    if version != SCHEMA_VERSION:
        raise DataError(f"{path} is a voice store of version {version}, this package reads {SCHEMA_VERSION}; update the package")


@contextlib.contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into :class:`DataError` with a remedy."""
    try:
        yield
    except sqlite3.Error as error:
        said = str(error)
        for part, message in _MESSAGES:
            if part in said:
                raise DataError(f"{path}: {message}") from error
        raise DataError(f"{path} cannot be used ({said}); check the file and its folder") from error


_MESSAGES = (
    ("not a database", "this is no voice store (no SQLite file); name another file (--store)"),
    (
        "malformed",
        "the voice store is damaged or cut off; put a backup or an import of an export (mrl voices import) in its place",
    ),
    ("readonly", "the voice store cannot be written to, nothing was changed; check the permissions of the file and its folder"),
    ("full", "the disk is full, nothing was changed; make room and try again"),
    ("locked", f"another process has been writing for {_WAIT_SECONDS:g} s, nothing was changed; try again"),
    ("unable to open", "the voice store cannot be opened; check the permissions of the file and its folder"),
)

"""The SQLite file of a voice store: its tables, how it is opened, and its errors in one clear line.

Transactions are atomic and durable (rollback journal, ``synchronous=EXTRA``): a process killed at any moment leaves the file as
it was before its transaction. There are any number of readers and one writer at a time; each waits for the other, up to 30 s.
A rollback journal is used rather than a write-ahead log because the log would keep deleted voices until every reader has left.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import sqlite3
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock

from mrl.bounded import brief
from mrl.embeddings.compact import EmbeddingFormat, bytes_per_embedding
from mrl.errors import DataError, InputError

# What a store tells of a voice, and what names voices may have.


_LONGEST_NAME = 200


@dataclass(frozen=True)
class Voice:
    """An enrolled voice, without its embeddings.

    Attributes:
        name: unique in the store.
        recordings: how many it was made from.
        seconds: their durations together.
        model_hash: of the weights that made the embeddings.
        calibration_hash: of the model's calibration when the voice was enrolled; empty without one.
        enrolled_at, updated_at: UTC, ISO 8601.
    """

    name: str
    recordings: int
    seconds: float
    model_hash: str
    calibration_hash: str
    enrolled_at: str
    updated_at: str


@dataclass(frozen=True)
class StoredRecording:
    """One recording of a voice: its duration and its embedding, encoded in the store's format."""

    seconds: float
    embedding: bytes


@dataclass(frozen=True)
class StoredVoice:
    """Everything that the store holds of a voice."""

    name: str
    model_hash: str
    calibration_hash: str
    enrolled_at: str
    updated_at: str
    recordings: tuple[StoredRecording, ...]


def clean_name(name: str) -> str:
    """Return a voice's name as it is stored: without white space at the ends, Unicode composed (NFC).

    Raises:
        InputError: it is empty, too long, or holds control characters.
    """
    cleaned = unicodedata.normalize("NFC", name).strip()
    printable = cleaned.isprintable()  # refuses control characters and lone surrogates
    if not cleaned or len(cleaned) > _LONGEST_NAME or not printable:
        raise InputError(f"a voice's name has 1 to {_LONGEST_NAME} printable characters; found {name[:_LONGEST_NAME]!r}")
    return cleaned


# What is written to and read from the tables of a voice store, within a transaction of the caller.


def create_store_file(file: Path, embed_dim: int, form: EmbeddingFormat) -> None:
    """Make an empty store that only its owner may read; one that another process has made meanwhile is left as it is."""
    bytes_per_embedding(form, embed_dim)  # refuses what cannot be
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(file, os.O_RDWR | os.O_CREAT, stat.S_IRUSR | stat.S_IWUSR))
    with connection(file, create=True) as opened, transaction(opened, write=True):
        if opened.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return  # another process was faster
        for statement in SCHEMA.split(";"):
            opened.execute(statement)
        facts = {"embed_dim": str(embed_dim), "embedding_format": form}
        opened.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())
        renew_revision(opened)
        opened.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        opened.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def stored_voice(path: Path, opened: sqlite3.Connection, name: str) -> StoredVoice:
    """Return everything about a voice; :class:`DataError` where there is none."""
    number = require_voice(path, opened, name)
    facts = opened.execute(
        "SELECT model_hash, calibration_hash, enrolled_at, updated_at "
        "FROM voices v JOIN models m ON m.id = v.model WHERE v.id = ?",
        (number,),
    ).fetchone()
    recordings = opened.execute("SELECT seconds, embedding FROM recordings WHERE voice = ? ORDER BY id", (number,))
    model_hash, calibration_hash, enrolled_at, updated_at = facts
    held = tuple(itertools.starmap(StoredRecording, recordings))
    return StoredVoice(name, model_hash, calibration_hash, enrolled_at, updated_at, held)


def insert_voice(
    opened: sqlite3.Connection, name: str, model_hash: str, calibration_hash: str, enrolled_at: str, updated_at: str
) -> int:
    """Add a voice without recordings and return its number."""
    hashes = (model_hash, calibration_hash)
    opened.execute("INSERT OR IGNORE INTO models (model_hash, calibration_hash) VALUES (?, ?)", hashes)
    query = "SELECT id FROM models WHERE model_hash = ? AND calibration_hash = ?"
    model = opened.execute(query, hashes).fetchone()[0]
    inserted = opened.execute(
        "INSERT INTO voices (name, model, enrolled_at, updated_at) VALUES (?, ?, ?, ?)", (name, model, enrolled_at, updated_at)
    )
    return int(inserted.lastrowid or 0)


def insert_recordings(opened: sqlite3.Connection, name: str, number: int, recordings: Iterator[tuple[float, bytes]]) -> None:
    """Add recordings (seconds, embedding) to a voice; :class:`DataError` for one that it has already."""
    known = set(opened.execute("SELECT seconds, embedding FROM recordings WHERE voice = ?", (number,)))
    for seconds, blob in recordings:
        if (seconds, blob) in known:
            raise DataError(f"a recording of {seconds:.2f} s is part of voice {name!r} already, or was given twice; leave it out")
        known.add((seconds, blob))
        opened.execute("INSERT INTO recordings (voice, seconds, embedding) VALUES (?, ?, ?)", (number, seconds, blob))


def voice_number(opened: sqlite3.Connection, name: str) -> int | None:
    """Return the number of a voice, None where there is none."""
    row = opened.execute("SELECT id FROM voices WHERE name = ?", (name,)).fetchone()
    return None if row is None else int(row[0])


def require_voice(path: Path, opened: sqlite3.Connection, name: str) -> int:
    """Return the number of a voice; :class:`DataError` where there is none."""
    number = voice_number(opened, name)
    if number is None:
        raise DataError(f"there is no voice {name!r} in {path}; mrl voices list shows those that are there")
    return number


def require_enrollable(path: Path, opened: sqlite3.Connection, name: str, model_hash: str, *, extend: bool) -> int | None:
    """Return the number of the voice to be extended, None for a new one; :class:`DataError` where recordings cannot be added."""
    require_model(path, opened, model_hash)
    number = voice_number(opened, name)
    if number is not None and not extend:
        raise DataError(
            f"a voice {name!r} is enrolled in {path} already; add recordings to it (--add), remove it first "
            "(mrl voices remove), or choose another name"
        )
    if number is None and extend:
        raise DataError(f"there is no voice {name!r} in {path} to add recordings to")
    return number


def model_of_voices(opened: sqlite3.Connection) -> str | None:
    """Return the hash of the model of all voices, None where there are none."""
    row = opened.execute("SELECT m.model_hash FROM voices v JOIN models m ON m.id = v.model LIMIT 1").fetchone()
    return None if row is None else str(row[0])


def require_model(path: Path, opened: sqlite3.Connection, model_hash: str) -> None:
    """Raise :class:`DataError` where the voices are of another model."""
    known = model_of_voices(opened)
    if known is not None and known != model_hash:
        raise DataError(
            f"the voices in {path} were enrolled with another model ({known[:12]}, this one is {model_hash[:12]}); their "
            "embeddings cannot be compared; use that model, or enrol the voices again in another store (--store)"
        )


def read_revision(opened: sqlite3.Connection) -> str:
    """Return the token of the store's present state."""
    row = opened.execute("SELECT value FROM facts WHERE name = 'revision'").fetchone()
    if row is None:
        raise sqlite3.DatabaseError("malformed: it does not state its revision")
    return str(row[0])


def renew_revision(opened: sqlite3.Connection) -> None:
    """Note that the voices have changed."""
    opened.execute("INSERT OR REPLACE INTO facts VALUES ('revision', ?)", (secrets.token_hex(16),))


# Where the side files of a voice store lie, and getting rid of them.
#
# A side file holds the voices of a store laid out for search. It is derived from the store and can be deleted at any time; a
# process that searches it keeps its memory map. Writing and removing are done under one lock, so that a file that is being
# made from an old state of the store never survives a removal.


def side_path(store: Path, dim: int) -> Path:
    """Return where the side file of a prefix length lies."""
    return store.with_name(f"{store.name}.search-{dim}")


def unfinished_path(store: Path, dim: int) -> Path:
    """Return where a side file is written before it gets its name; one that is there without the lock held is a leftover."""
    return store.with_name(f"{store.name}.search-{dim}.unfinished")


def side_lock(store: Path) -> BaseFileLock:
    """Return the lock to be held while side files are written or removed."""
    return FileLock(store.with_name(f"{store.name}.search-lock"))


def side_files(store: Path) -> list[Path]:
    """Return the side files of a store that there are, finished or not."""
    prefix = f"{store.name}.search-"
    return sorted(file for file in store.parent.iterdir() if file.name.startswith(prefix) and file.name != f"{prefix}lock")


def remove_side_files(store: Path) -> None:
    """Delete all side files of a store.

    Raises:
        OSError: one cannot be deleted.
    """
    with side_lock(store):
        for file in side_files(store):
            file.unlink(missing_ok=True)


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
_OBJECTS = {
    *(("table", name) for name in ("facts", "models", "voices", "recordings")),
    ("index", "recordings_of_voice"),
}
"""Numbers of voices are never used twice (AUTOINCREMENT), so one that was kept elsewhere never means another voice."""


@contextlib.contextmanager
def connection(path: Path, *, write: bool = False, create: bool = False, wait: bool = True) -> Iterator[sqlite3.Connection]:
    """Open the file of a store, close it after the block.

    A reader opens a file that it may write to for writing too: what a killed writer left half-done is then undone.

    Args:
        path: the file.
        write: changes are meant; a reader's connection refuses them.
        create: make the file where there is none.
        wait: for other processes, up to 30 s.

    Raises:
        DataError: the file is missing, no store, damaged, of a later version, locked for too long or cannot be written; or the
            disk is full. Nothing has changed then.
    """
    if not create and not (path.is_file() and path.stat().st_size):  # an empty one is left by a full disk or a kill
        raise DataError(f"there is no voice store {path}; enrol a voice first (mrl enroll), or name another file (--store)")
    mode = "rwc" if create else "rw" if write or os.access(path, os.W_OK) else "ro"
    with clear_errors(path):
        # isolation_level None: transactions begin and end where this package says so.
        seconds = _WAIT_SECONDS if wait else 0.0
        opened = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=seconds, isolation_level=None)
        with contextlib.closing(opened) as database:
            database.execute("PRAGMA trusted_schema = OFF")
            database.execute("PRAGMA cell_size_check = ON")
            database.execute("PRAGMA secure_delete = ON")
            database.execute("PRAGMA synchronous = EXTRA")
            database.execute("PRAGMA foreign_keys = ON")
            database.execute("PRAGMA temp_store = MEMORY")  # no voice goes to a folder for temporary files
            if not create:
                require_store(path, database)
            if mode != "ro":
                _require_rollback_journal(path, database)
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
    # A view in place of a table, or a trigger, would be a program of whoever made the file.
    there = set(database.execute("SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"))
    if there != _OBJECTS:
        wrong = sorted(f"{kind} {name}" for kind, name in there ^ _OBJECTS)
        damage = sqlite3.DatabaseError(f"unexpected: {', '.join(wrong)}")
        raise DataError(f"{path} is no voice store as this package makes it ({brief(wrong[0])}); use a backup") from damage


def _require_rollback_journal(path: Path, database: sqlite3.Connection) -> None:
    """Take a store that somebody has set to write-ahead logging back from it: the log keeps what was deleted."""
    if database.execute("PRAGMA journal_mode").fetchone()[0] == "delete":
        return
    try:
        mode = database.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
    except sqlite3.OperationalError as error:
        mode = str(error)
    if mode != "delete":
        raise DataError(f"{path} keeps a write-ahead log, in which deleted voices stay ({mode}); end other programs that use it")


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
    except UnicodeDecodeError as error:  # a text in the file, or a message of SQLite's that quotes one
        raise DataError(f"{path}: {_MESSAGES[1][1]}") from error


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

"""What is written to and read from the tables of a voice store, within a transaction of the caller."""

from __future__ import annotations

import itertools
import os
import secrets
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

from mrl.embeddings.compact import EmbeddingFormat, bytes_per_embedding
from mrl.errors import DataError
from mrl.identification import database
from mrl.identification.voices import StoredRecording, StoredVoice


def create_store_file(file: Path, embed_dim: int, form: EmbeddingFormat) -> None:
    """Make an empty store that only its owner may read; one that another process has made meanwhile is left as it is."""
    bytes_per_embedding(form, embed_dim)  # refuses what cannot be
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(file, os.O_RDWR | os.O_CREAT, stat.S_IRUSR | stat.S_IWUSR))
    with database.connection(file, create=True) as opened, database.transaction(opened, write=True):
        if opened.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return  # another process was faster
        for statement in database.SCHEMA.split(";"):
            opened.execute(statement)
        facts = {"embed_dim": str(embed_dim), "embedding_format": form}
        opened.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())
        renew_revision(opened)
        opened.execute(f"PRAGMA application_id = {database.APPLICATION_ID}")
        opened.execute(f"PRAGMA user_version = {database.SCHEMA_VERSION}")


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
    return str(opened.execute("SELECT value FROM facts WHERE name = 'revision'").fetchone()[0])


def renew_revision(opened: sqlite3.Connection) -> None:
    """Note that the voices have changed."""
    opened.execute("INSERT OR REPLACE INTO facts VALUES ('revision', ?)", (secrets.token_hex(16),))

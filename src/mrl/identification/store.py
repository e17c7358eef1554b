"""The voice store: enrolled voices in one SQLite file.

What is stored of a voice: its name, when it was enrolled and last changed, the hashes of model and calibration, and of each
recording the duration and the embedding in the store's format. No audio, no file names.
"""

from __future__ import annotations

import datetime
import glob
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.bounded import brief
from mrl.embeddings.compact import (
    EMBEDDING_FORMATS,
    EmbeddingFormat,
    bytes_per_embedding,
    decode_embeddings,
    encode_embeddings,
)
from mrl.errors import DataError, InputError
from mrl.files import remove_leftovers
from mrl.identification import database
from mrl.identification.database import (
    StoredVoice,
    Voice,
    clean_name,
    create_store_file,
    insert_recordings,
    insert_voice,
    model_of_voices,
    read_revision,
    remove_side_files,
    renew_revision,
    require_enrollable,
    require_model,
    require_voice,
    stored_voice,
    voice_number,
)

# The embedding of a voice: the average of its recordings, each at unit length and weighted by its duration.


FloatMatrix = npt.NDArray[np.float32]


def voice_averages(
    embeddings: FloatMatrix, seconds: npt.NDArray[np.float64], starts: npt.NDArray[np.int64], dim: int
) -> FloatMatrix:
    """Return the voices (voices, dim) float32 at unit length.

    A voice at length ``dim`` is the weighted mean of its recordings' prefixes of that length, each at unit length, as a system of
    that length alone would have it (so does :func:`mrl.scoring.score_enrolled`).

    Args:
        embeddings: (recordings, embed_dim), those of one voice one after another.
        seconds: (recordings,) durations.
        starts: (voices,) row of each voice's first recording.
        dim: prefix length.

    Raises:
        DataError: a prefix, or an average, has no length.
    """
    prefixes = embeddings[:, :dim].astype(np.float64)
    weighted = prefixes * (seconds / _lengths(prefixes, "a recording's embedding"))[:, None]
    sums = np.add.reduceat(weighted, starts, axis=0) if len(starts) else weighted[:0]
    # Recordings that point opposite ways leave rounding errors only, which would be blown up to unit length.
    totals = np.add.reduceat(seconds, starts) if len(starts) else seconds[:0]
    lengths = _lengths(sums / totals[:, None], "the average of a voice's recordings")
    voices: FloatMatrix = (sums / (totals * lengths)[:, None]).astype(np.float32)
    return voices


def _lengths(rows: npt.NDArray[np.float64], what: str) -> npt.NDArray[np.float64]:
    lengths: npt.NDArray[np.float64] = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    if not (lengths > 1e-9).all():
        raise DataError(f"{what} has no length in its first {rows.shape[1]} dims, so it has no cosine; enrol the voice again")
    return lengths


_NUMBERS_PER_QUERY = 500  # SQLite takes no more than 999 parameters where it is old


class VoiceStore:
    """A store of voices; every method is one transaction, and nothing is kept open between them.

    Any number of processes and threads may use one file at once. All voices of a store are of one model.

    Attributes:
        path: the SQLite file.
        embed_dim: length of the embeddings.
        form: the format that they are kept in.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open a store.

        Raises:
            DataError: there is none at ``path``, or it is damaged.
        """
        self.path = Path(path)
        with database.connection(self.path) as opened:
            facts = dict(opened.execute("SELECT name, value FROM facts"))
        dim, form = facts.get("embed_dim"), facts.get("embedding_format")
        if form not in EMBEDDING_FORMATS or not (isinstance(dim, str) and re.fullmatch("[0-9]{1,6}", dim) and int(dim)):
            raise DataError(
                f"{self.path} does not say what it holds (embed_dim {brief(dim)}, embedding_format {brief(form)}); use a backup"
            )
        self.embed_dim = int(dim)
        self.form: EmbeddingFormat = form

    @classmethod
    def open_or_create(cls, path: str | os.PathLike[str], *, embed_dim: int, form: EmbeddingFormat | None = None) -> VoiceStore:
        """Open a store, or make one that only its owner may read.

        Args:
            path: the file; folders above it are made.
            embed_dim: length of the embeddings.
            form: format of the embeddings; for a new store float32 by default, for one that is there it must be the store's own.

        Raises:
            DataError: the store is damaged, has embeddings of another length or format, or cannot be made.
            InputError: unusable format or length.
        """
        file = Path(path)
        journal = file.with_name(f"{file.name}-journal")
        # A process killed while it made the store leaves an empty file, or one that its journal makes empty again.
        if not file.is_file() or not file.stat().st_size or journal.exists():
            create_store_file(file, embed_dim, form or "float32")
        store = cls(file)
        if store.embed_dim != embed_dim:
            raise DataError(
                f"{file} holds embeddings of {store.embed_dim} numbers, this model gives {embed_dim}; "
                "use the model that the voices were enrolled with, or another store (--store)"
            )
        if form is not None and form != store.form:
            raise DataError(f"{file} keeps embeddings as {store.form}, not {form}; a store has one format: use another store")
        return store

    def __len__(self) -> int:
        with database.connection(self.path) as opened:
            return int(opened.execute("SELECT count(*) FROM voices").fetchone()[0])

    def __contains__(self, name: object) -> bool:
        with database.connection(self.path) as opened:
            return isinstance(name, str) and voice_number(opened, clean_name(name)) is not None

    def revision(self) -> str:
        """Return a token that every change of the store replaces by a new one."""
        with database.connection(self.path) as opened:
            return read_revision(opened)

    def model_hash(self) -> str | None:
        """Return the hash of the model whose voices these are; None for an empty store."""
        with database.connection(self.path) as opened:
            return model_of_voices(opened)

    def require_model(self, model_hash: str) -> None:
        """Make sure that embeddings of a model can be compared with the voices.

        Raises:
            DataError: they are of another model.
        """
        with database.connection(self.path) as opened:
            require_model(self.path, opened, model_hash)

    def voices(self, offset: int = 0, limit: int | None = None) -> list[Voice]:
        """Return voices, sorted by name: all, or ``limit`` of them at most after leaving out ``offset``."""
        with database.connection(self.path) as opened:
            rows = opened.execute(
                "SELECT v.name, count(*), sum(r.seconds), m.model_hash, m.calibration_hash, v.enrolled_at, v.updated_at "
                "FROM (SELECT * FROM voices ORDER BY name LIMIT ? OFFSET ?) v "
                "JOIN models m ON m.id = v.model JOIN recordings r ON r.voice = v.id GROUP BY v.id ORDER BY v.name",
                (-1 if limit is None else limit, offset),
            )
            return [Voice(*row) for row in rows]

    def voice(self, name: str) -> Voice:
        """Return one voice.

        Raises:
            DataError: there is none of this name.
        """
        stored = self.stored_voices([name])[0]
        seconds = float(sum(recording.seconds for recording in stored.recordings))
        facts = (stored.model_hash, stored.calibration_hash, stored.enrolled_at, stored.updated_at)
        return Voice(stored.name, len(stored.recordings), seconds, *facts)

    def embedding(self, name: str, target_dim: int | None = None) -> npt.NDArray[np.float32]:
        """Return a voice (dim,) float32 at unit length, as its format keeps it; see :func:`voice_averages`.

        Raises:
            DataError: there is no such voice, or its data are damaged.
            InputError: ``target_dim`` not in 1..embed_dim.
        """
        dim = self.check_dim(target_dim)
        recordings = self.stored_voices([name])[0].recordings
        rows = self._decode([recording.embedding for recording in recordings])
        seconds = np.array([recording.seconds for recording in recordings])
        average = voice_averages(rows, seconds, np.zeros(1, dtype=np.int64), dim)
        held: npt.NDArray[np.float32] = decode_embeddings(encode_embeddings(average, self.form), self.form, dim)[0]
        return held

    def require_enrollable(self, name: str, model_hash: str, *, extend: bool = False) -> None:
        """Make sure that :meth:`add` would take recordings of this model for this name, as things are now.

        Raises:
            InputError: unusable name.
            DataError: the name is taken (or missing with ``extend``), or the store's voices are of another model.
        """
        with database.connection(self.path) as opened:
            require_enrollable(self.path, opened, clean_name(name), model_hash, extend=extend)

    def add(
        self,
        name: str,
        embeddings: npt.ArrayLike,
        seconds: Sequence[float],
        *,
        model_hash: str,
        calibration_hash: str = "",
        extend: bool = False,
    ) -> Voice:
        """Enrol a voice, or add recordings to one: adding later gives the same voice as enrolling all at once.

        Args:
            name: of the voice; white space at the ends is dropped, Unicode composed (NFC).
            embeddings: (recordings, embed_dim) of any scale.
            seconds: duration of each recording, its weight in the average.
            model_hash, calibration_hash: of what made the embeddings.
            extend: add to a voice of this name, which must then be there; else it must not.

        Raises:
            InputError: unusable name, embeddings (NaN, all zeros, wrong shape) or durations.
            DataError: the name is taken (or missing with ``extend``), the store's voices are of another model, a recording is in
                the voice already, or the store cannot be written. Nothing has changed then.
        """
        voice = clean_name(name)
        matrix = np.asarray(embeddings, dtype=np.float32)
        durations = [float(value) for value in seconds]
        if matrix.ndim != 2 or matrix.shape[1] != self.embed_dim or not len(matrix) or len(durations) != len(matrix):
            raise InputError(
                f"a voice needs embeddings (recordings, {self.embed_dim}) and the seconds of each; "
                f"found shape {matrix.shape} and {len(durations)} durations"
            )
        if not all(0 < value < float("inf") for value in durations):
            raise InputError(f"durations must be above 0 s and finite, found {durations}")
        blobs = [row.tobytes() for row in encode_embeddings(matrix, self.form)]
        now = _now()
        self.finish_deletion()
        with database.connection(self.path, write=True) as opened, database.transaction(opened, write=True):
            known = require_enrollable(self.path, opened, voice, model_hash, extend=extend)
            if known is None:
                known = insert_voice(opened, voice, model_hash, calibration_hash, now, now)
            else:
                opened.execute("UPDATE voices SET updated_at = ? WHERE id = ?", (now, known))
            insert_recordings(opened, voice, known, zip(durations, blobs, strict=True))
            self._require_average(stored_voice(self.path, opened, voice))
            renew_revision(opened)
        return self.voice(voice)

    def add_voices(self, voices: Sequence[StoredVoice]) -> None:
        """Add voices as another store held them, all or none.

        Raises:
            DataError: a name is taken or given twice, a voice is of another model, or its embeddings are not of this store's
                length and format.
        """
        size = bytes_per_embedding(self.form, self.embed_dim)
        for voice in voices:
            if not voice.recordings or any(
                len(recording.embedding) != size or not 0 < recording.seconds < float("inf") for recording in voice.recordings
            ):
                raise DataError(f"voice {voice.name!r} does not fit: {self.path} needs {self.form} embeddings of {size} bytes")
        for voice in voices:
            self._require_average(voice)
        self.finish_deletion()
        with database.connection(self.path, write=True) as opened, database.transaction(opened, write=True):
            for voice in voices:
                require_model(self.path, opened, voice.model_hash)
                name = clean_name(voice.name)
                if voice_number(opened, name) is not None:
                    raise DataError(f"a voice {name!r} is enrolled in {self.path} already; remove it first")
                facts = (voice.model_hash, voice.calibration_hash, voice.enrolled_at, voice.updated_at)
                number = insert_voice(opened, name, *facts)
                insert_recordings(
                    opened, name, number, ((recording.seconds, recording.embedding) for recording in voice.recordings)
                )
            renew_revision(opened)

    def rename(self, name: str, new_name: str) -> None:
        """Give a voice another name.

        Raises:
            InputError: an unusable name.
            DataError: there is no such voice, the new name is taken, or the store cannot be written.
        """
        old, new = clean_name(name), clean_name(new_name)
        with database.connection(self.path, write=True) as opened, database.transaction(opened, write=True):
            number = require_voice(self.path, opened, old)
            if voice_number(opened, new) not in (None, number):
                raise DataError(f"a voice {new!r} is enrolled in {self.path} already; remove it first")
            opened.execute("UPDATE voices SET name = ?, updated_at = ? WHERE id = ?", (new, _now(), number))
            renew_revision(opened)

    def remove(self, names: Sequence[str]) -> None:
        """Delete voices, all or none, and every trace of them in the store's files.

        Deleted content is overwritten with zeros (``secure_delete``), the file is rewritten without it (``VACUUM``), the
        journal and the side files are deleted. A process killed in between leaves a note, and the next writer or search ends
        the work. What file systems, SSDs, snapshots and backups keep is beyond this.

        Raises:
            DataError: a voice is not there or the store cannot be written (nothing is deleted then); or the voices are deleted
                but the cleaning failed.
        """
        wanted = list(dict.fromkeys(clean_name(name) for name in names))
        with database.connection(self.path, write=True) as opened, database.transaction(opened, write=True):
            numbers = [require_voice(self.path, opened, name) for name in wanted]
            opened.executemany("DELETE FROM voices WHERE id = ?", [(number,) for number in numbers])
            opened.execute("DELETE FROM models WHERE id NOT IN (SELECT model FROM voices)")
            # A note of its own: a cleaning that began before this deletion must not take it for done.
            opened.execute("INSERT OR REPLACE INTO facts VALUES ('cleaning_due', ?)", (secrets.token_hex(16),))
            renew_revision(opened)
        try:
            self.remove_abandoned_exports()
            self.finish_deletion()
        except (DataError, OSError) as error:
            raise DataError(
                f"{len(wanted)} voices are deleted, but traces of them may be left in {self.path} and the files beside it "
                f"until it is next searched or written: {error}"
            ) from error

    def stored_voices(self, names: Sequence[str] | None = None) -> list[StoredVoice]:
        """Return everything about some voices, in the order given, or about all, sorted by name.

        Raises:
            DataError: a voice is not there.
        """
        with database.connection(self.path) as opened, database.transaction(opened, write=False):
            if names is None:
                wanted = [name for (name,) in opened.execute("SELECT name FROM voices ORDER BY name")]
            else:
                wanted = [clean_name(name) for name in names]
            return [stored_voice(self.path, opened, name) for name in wanted]

    def names(self, numbers: Sequence[int]) -> dict[int, str]:
        """Return the names of voices by their numbers; those that have been deleted are left out."""
        return {number: str(name) for number, name in self._by_number("SELECT id, name FROM voices WHERE id IN", "", numbers)}

    def seconds(self, numbers: Sequence[int]) -> dict[int, float]:
        """Return how many seconds of recordings voices were made from, by their numbers."""
        query = "SELECT voice, sum(seconds) FROM recordings WHERE voice IN"
        return {number: float(total) for number, total in self._by_number(query, "GROUP BY voice", numbers)}

    def check_dim(self, target_dim: int | None) -> int:
        """Return the prefix length meant: ``target_dim``, or all dimensions.

        Raises:
            InputError: it is not in 1..embed_dim.
        """
        if target_dim is None:
            return self.embed_dim
        if isinstance(target_dim, bool) or not 1 <= target_dim <= self.embed_dim:
            raise InputError(
                f"dim must lie in 1..{self.embed_dim}, the size of the embeddings in {self.path}; found {target_dim}"
            )
        return target_dim

    def scan(
        self, dim: int, *, block_voices: int = 16_384
    ) -> tuple[str, int, Iterator[tuple[npt.NDArray[np.int64], FloatMatrix]]]:
        """Read all voices at one prefix length, in one state of the store.

        Args:
            dim: prefix length.
            block_voices: about how many recordings are decoded at once.

        Returns:
            The revision read, the number of voices, and blocks of (numbers (n,), averages (n, dim) float32). The store can be
            read meanwhile, and writers wait, until the iterator is used up or closed.

        Raises:
            DataError: damaged data.
        """
        blocks = self._scan(dim, block_voices)
        revision, count = next(blocks)
        return revision, count, blocks  # type: ignore[return-value]

    def finish_deletion(self, *, wait: bool = True) -> None:
        """End the cleaning that a killed process left undone; nothing is done where none is due or the file is read-only.

        Args:
            wait: for other processes that use the store; otherwise the cleaning is left to the next caller that may wait.
        """
        with database.connection(self.path) as opened:
            due = opened.execute("SELECT value FROM facts WHERE name = 'cleaning_due'").fetchone()
        if due is None or not os.access(self.path, os.W_OK):
            return
        try:
            with database.connection(self.path, write=True, wait=wait) as opened:
                opened.execute("VACUUM")
                remove_side_files(self.path)
                opened.execute("DELETE FROM facts WHERE name = 'cleaning_due' AND value = ?", due)
        except DataError as error:
            if wait or "locked" not in str(error.__cause__):
                raise

    def note_export(self, path: str | os.PathLike[str]) -> str | None:
        """Remember that voices are being written to a file; return what to forget it by, None where the store is read-only."""
        if not os.access(self.path, os.W_OK):
            return None
        note = f"export:{secrets.token_hex(8)}"
        with database.connection(self.path, write=True) as opened, database.transaction(opened, write=True):
            opened.execute("INSERT INTO facts VALUES (?, ?)", (note, os.path.abspath(path)))  # noqa: PTH100 (nothing resolved)
        return note

    def forget_export(self, note: str | None) -> None:
        """Forget what :meth:`note_export` noted."""
        if note is not None:
            with database.connection(self.path, write=True) as opened, database.transaction(opened, write=True):
                opened.execute("DELETE FROM facts WHERE name = ?", (note,))

    def remove_abandoned_exports(self) -> None:
        """Remove the temporary files of exports whose process was killed; those that are being written stay."""
        with database.connection(self.path) as opened:
            notes = opened.execute("SELECT name, value FROM facts WHERE name LIKE 'export:%'").fetchall()
        for note, place in notes:
            target = Path(place)
            if target.parent.is_dir():
                remove_leftovers(target.parent, target.stem)
            if not any(target.parent.glob(f".{glob.escape(target.stem)}.*.tmp*")):
                self.forget_export(note)

    def _by_number(self, query: str, rest: str, numbers: Sequence[int]) -> Iterator[tuple[int, Any]]:
        with database.connection(self.path) as opened, database.transaction(opened, write=False):
            for first in range(0, len(numbers), _NUMBERS_PER_QUERY):
                some = [int(number) for number in numbers[first : first + _NUMBERS_PER_QUERY]]
                yield from opened.execute(f"{query} ({','.join('?' * len(some))}) {rest}", some)

    def _require_average(self, voice: StoredVoice) -> None:
        """Raise :class:`DataError` for recordings that are damaged or cancel out: one such voice would stop every search."""
        try:
            seconds = np.array([recording.seconds for recording in voice.recordings])
            rows = self._decode([recording.embedding for recording in voice.recordings])
            voice_averages(rows, seconds, np.zeros(1, dtype=np.int64), self.embed_dim)
        except DataError as error:
            raise DataError(f"voice {voice.name!r} cannot be stored, nothing was changed: {error}") from error

    def _scan(self, dim: int, block_voices: int) -> Iterator[tuple[object, object]]:
        with database.connection(self.path) as opened, database.transaction(opened, write=False):
            yield read_revision(opened), int(opened.execute("SELECT count(*) FROM voices").fetchone()[0])
            rows = opened.execute("SELECT voice, seconds, embedding FROM recordings ORDER BY voice, id")
            held: list[tuple[int, float, bytes]] = []
            while fetched := rows.fetchmany(block_voices):
                held += fetched
                # The last voice may go on in the next rows.
                whole = len(held)
                while whole and held[whole - 1][0] == held[-1][0]:
                    whole -= 1
                if whole:
                    yield self._average(held[:whole], dim)
                    held = held[whole:]
            if held:
                yield self._average(held, dim)

    def _average(self, rows: list[tuple[int, float, bytes]], dim: int) -> tuple[npt.NDArray[np.int64], FloatMatrix]:
        numbers = np.array([number for number, _, _ in rows], dtype=np.int64)
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))
        seconds = np.array([duration for _, duration, _ in rows], dtype=np.float64)
        return numbers[starts], voice_averages(self._decode([blob for _, _, blob in rows]), seconds, starts, dim)

    def _decode(self, blobs: Sequence[bytes]) -> FloatMatrix:
        size = bytes_per_embedding(self.form, self.embed_dim)
        if any(len(blob) != size for blob in blobs):
            raise DataError(f"{self.path}: an embedding is not of {size} bytes; the voice store is damaged, use a backup")
        encoded = np.frombuffer(b"".join(blobs), dtype=np.uint8).reshape(len(blobs), size)
        try:
            return decode_embeddings(encoded, self.form, self.embed_dim)
        except DataError as error:
            raise DataError(f"{self.path}: {error}; use a backup") from error


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")

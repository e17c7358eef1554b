"""Writing shards: in parallel, shard by shard, so that a killed run resumes where it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from mrl.bounded import read_json, read_json_object, record
from mrl.data.shard_encoding import (
    EncodedAhead,
    EncodedUtterance,
    Encoding,
    LeftOut,
    TarWriter,
    check_encoding,
    encode_utterance,
    finished_bytes,
    member_bytes,
)
from mrl.data.shards import DESCRIPTION, FORMAT, ROW, Shard, ShardIndex, key_of, shard_name, write_index
from mrl.data.utterances import Corpus, Utterance
from mrl.errors import AudioLoadingError, DataError, InputError
from mrl.files import atomic_path, sha256_of, write_json, write_text
from mrl.progress import progress_bar

_LOG = logging.getLogger(__name__)
_PLAN = "writing.json"  # which plan the finished shards of an unfinished folder belong to
_AHEAD = 8  # utterances encoded ahead, per worker


@dataclasses.dataclass(frozen=True)
class ShardReport:
    """What :func:`write_shards` did: the finished shards, how many of them were there before, and what was left out."""

    index: ShardIndex
    kept: int
    left_out: tuple[LeftOut, ...]


@dataclasses.dataclass(frozen=True)
class _Record:
    """A finished shard, remembered until all are: what could be read of ``plan[first:end]``, under keys from ``key`` on."""

    shard: Shard
    first: int
    end: int
    key: int
    rows: list[list[Any]]
    left_out: list[LeftOut]

    @classmethod
    def read(cls, path: Path) -> _Record:
        written = record(cls, read_json(path), str(path))
        if not all(len(row) == len(ROW.names or ()) and isinstance(row[-1], str) for row in written.rows):
            raise DataError(f"{path}: a row does not have the {len(ROW.names or ())} values that belong in it")
        return written


def write_shards(
    corpus: Corpus,
    folder: str | os.PathLike[str],
    *,
    shard_megabytes: float = 512.0,
    encoding: str = "flac",
    seed: int = 0,
    root: str | os.PathLike[str] | None = None,
    leave_out_unreadable: bool = False,
    num_workers: int = 2,
    progress: bool = True,
) -> ShardReport:
    """Write the utterances of a corpus, in random order, into tar shards with an index.

    Each shard appears at once when it is complete. The same call after a kill verifies and keeps the finished shards and resumes;
    the result is byte for byte that of an undisturbed run. On a finished folder it verifies everything.

    Args:
        corpus: without speed copies.
        folder: where the shards go; made if need be.
        shard_megabytes: largest size of a shard in 10^6 bytes (a single utterance may exceed it).
        encoding: ``flac`` or ``as-is``, see :func:`mrl.data.shard_encoding.encode_utterance`.
        seed: of the order. Shards that mix all speakers let training read them one after the other.
        root: folder that the recorded origins are relative to.
        leave_out_unreadable: list utterances that cannot be read in the report instead of stopping at the first.
        num_workers: threads that read and encode.
        progress: show a bar.

    Raises:
        InputError: an argument has an unusable value.
        AudioLoadingError: a recording cannot be read.
        DataError: a name is not Unicode, ``as-is`` cannot keep an utterance, nothing could be read, the folder holds other shards
            or is being written to by another process, or, with all finished, a shard is damaged.
        OSError: the disk is full; finished shards stay.
    """
    kind = check_encoding(encoding)
    if not shard_megabytes > 0 or num_workers < 1:
        raise InputError(f"shard_megabytes must be above 0 and num_workers 1 or more (found {shard_megabytes}, {num_workers})")
    if any(utterance.speed != 1.0 for utterance in corpus.utterances):
        raise InputError("shards hold recordings at their own speed; write them without copies (data.speeds makes those)")
    _refuse_undecodable_names(corpus)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    facts = {"encoding": kind, "shard_megabytes": shard_megabytes, "seed": seed, "corpus": _fingerprint(corpus)}
    lock = FileLock(place / ".writing.lock")
    try:
        with lock.acquire(timeout=0):
            writer = _Writer(
                corpus,
                place,
                encoding=kind,
                limit=shard_megabytes * 1e6,
                seed=seed,
                root=None if root is None else Path(root),
                leave_out=leave_out_unreadable,
            )
            return writer.run(facts, num_workers, progress)
    except Timeout:
        raise DataError(f"another process is writing shards into {place}; wait for it, or choose another folder") from None


class _Writer:
    """One call of :func:`write_shards`."""

    def __init__(
        self, corpus: Corpus, folder: Path, *, encoding: Encoding, limit: float, seed: int, root: Path | None, leave_out: bool
    ) -> None:
        order = np.random.default_rng((seed, len(corpus))).permutation(len(corpus)).tolist()
        self.plan = [corpus.utterances[number] for number in order]
        self.speakers = corpus.speakers
        self.sessions = tuple(sorted({utterance.session for utterance in corpus.utterances if utterance.session is not None}))
        self.folder = folder
        self._leave_out = leave_out
        self._encoding = encoding
        self._limit = limit
        self._root = root
        self._speaker_numbers = {name: number for number, name in enumerate(self.speakers)}
        self._session_numbers = {name: number for number, name in enumerate(self.sessions)}

    def run(self, facts: dict[str, Any], num_workers: int, progress: bool) -> ShardReport:
        if (self.folder / DESCRIPTION).exists():
            return self._verified(facts, progress)
        self._begin(facts)
        records: list[_Record] = []
        kept = 0
        with (
            ThreadPoolExecutor(num_workers) as pool,
            progress_bar("shards", len(self.plan), unit="utterances", enabled=progress) as advance,
        ):
            ahead = EncodedAhead(self.plan, self._encode, pool, _AHEAD * num_workers)
            try:
                while (first := records[-1].end if records else 0) < len(self.plan):
                    number, key = len(records), sum(len(record.rows) for record in records)
                    record = self._finished(number, first, key)
                    if record is None:
                        ahead.seek(first)
                        record = self._write(number, key, ahead, advance)
                    else:
                        kept += 1
                        advance(record.end - record.first)
                    records.append(record)
            finally:
                ahead.stop()
        return self._finish(records, kept, facts)

    def _encode(self, utterance: Utterance) -> EncodedUtterance | LeftOut:
        try:
            return encode_utterance(utterance, self._encoding, self._root)
        except AudioLoadingError as error:
            if not self._leave_out:
                raise
            return LeftOut(str(utterance.path), str(error))

    def _write(self, number: int, key: int, ahead: EncodedAhead, advance: Callable[[int], None]) -> _Record:
        first = ahead.position
        rows: list[list[Any]] = []
        left_out: list[LeftOut] = []
        path = self.folder / shard_name(number)
        with atomic_path(path) as temporary, TarWriter(temporary) as tar:
            while ahead.position < len(self.plan):
                encoded = ahead.peek()
                if isinstance(encoded, LeftOut):
                    left_out.append(encoded)
                else:
                    name = key_of(key + len(rows))
                    described = encoded.json_member(name)
                    size = tar.size + member_bytes(encoded.audio) + member_bytes(described)
                    if rows and finished_bytes(size) > self._limit:
                        break
                    offset = tar.add(f"{name}{encoded.suffix}", encoded.audio)
                    tar.add(f"{name}.json", described)
                    rows.append(self._row(number, offset, encoded, self.plan[ahead.position]))
                ahead.advance()
                advance(1)
            sha256 = tar.finish()
        record = _Record(Shard(path.name, tar.size, sha256, len(rows)), first, ahead.position, key, rows, left_out)
        write_text(self._record_path(number), json.dumps(dataclasses.asdict(record)))
        return record

    def _row(self, shard: int, offset: int, encoded: EncodedUtterance, utterance: Utterance) -> list[Any]:
        session = -1 if utterance.session is None else self._session_numbers[utterance.session]
        speaker = self._speaker_numbers[utterance.speaker]
        return [shard, offset, len(encoded.audio), encoded.crc32, speaker, session, encoded.seconds, encoded.suffix]

    def _record_path(self, number: int) -> Path:
        return self.folder / f"{shard_name(number)}.json"

    def _begin(self, facts: dict[str, Any]) -> None:
        """Note the plan, or see that what is there belongs to it; remove what a killed process left half-written."""
        plan = self.folder / _PLAN
        begun = any(self.folder.glob("shard-*.tar"))
        if begun and not plan.exists():
            raise DataError(f"{self.folder} holds tar files of unknown origin; choose another folder")
        if begun:
            self._check_same(read_json_object(plan, advice="choose another folder"), facts)
        else:
            write_json(plan, {"format": FORMAT, **facts})
        for stale in self.folder.glob(".shard-*.tmp.*"):
            stale.unlink()

    def _check_same(self, written: dict[str, Any], facts: dict[str, Any]) -> None:
        differing = [name for name in ("format", *facts) if written.get(name) != {"format": FORMAT, **facts}[name]]
        if differing:
            raise DataError(
                f"{self.folder} holds shards made with other settings or utterances (different: {', '.join(differing)}); "
                "choose another folder, or delete this one to write it again"
            )

    def _finished(self, number: int, first: int, key: int) -> _Record | None:
        """Return the record of a shard that is there, intact, and begins at this place of the plan."""
        try:
            record = _Record.read(self._record_path(number))
        except FileNotFoundError:
            return None
        except (OSError, DataError) as error:
            _LOG.warning("%s cannot be read (%s); rewriting its shard", self._record_path(number), error)
            return None
        path = self.folder / record.shard.name
        if (record.first, record.key) != (first, key) or not path.exists():
            return None
        if path.stat().st_size != record.shard.size or sha256_of(path) != record.shard.sha256:
            _LOG.warning("%s has changed (%d bytes expected); rewriting it", path, record.shard.size)
            return None
        return record

    def _verified(self, facts: dict[str, Any], progress: bool) -> ShardReport:
        described = read_json_object(self.folder / DESCRIPTION, advice="delete it to write the shards again")
        self._check_same(described, facts)
        index = ShardIndex.load(self.folder)
        index.verify(progress=progress)
        self._remove_records()
        return ShardReport(
            index,
            len(index.shards),
            tuple(record(LeftOut, each, str(self.folder / DESCRIPTION)) for each in described.get("left_out", ())),
        )

    def _finish(self, records: Sequence[_Record], kept: int, facts: dict[str, Any]) -> ShardReport:
        rows = np.array([(*row[:-1], row[-1].encode()) for record in records for row in record.rows], dtype=ROW)
        left_out = tuple(each for record in records for each in record.left_out)
        if not len(rows):
            raise DataError(f"none of the {len(self.plan)} utterances could be read; the first: {left_out[0].reason}")
        if not records[-1].rows:  # nothing but unreadable utterances was left for it
            (self.folder / records[-1].shard.name).unlink()
        index = write_index(
            self.folder,
            [record.shard for record in records if record.rows],
            rows,
            speakers=self.speakers,
            sessions=self.sessions,
            facts={**facts, "left_out": [dataclasses.asdict(each) for each in left_out]},
        )
        self._remove_records()
        return ShardReport(index, kept, left_out)

    def _remove_records(self) -> None:
        for path in (*self.folder.glob("shard-*.tar.json"), self.folder / _PLAN):
            path.unlink(missing_ok=True)


def _refuse_undecodable_names(corpus: Corpus) -> None:
    """The index is UTF-8; a folder whose name is of another encoding would stop the work at its very end."""
    for utterance in corpus.utterances:
        for name in (utterance.speaker, utterance.session or "", str(utterance.path)):
            if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):
                shown = name.encode("utf-8", "backslashreplace").decode()
                raise DataError(f"{shown} is not valid Unicode (a file name of another encoding); rename it")


def _fingerprint(corpus: Corpus) -> str:
    digest = hashlib.sha256()
    for utterance in corpus.utterances:
        facts = (str(utterance.path), utterance.speaker, utterance.start, utterance.seconds, utterance.session)
        digest.update(repr(facts).encode())
    return digest.hexdigest()

"""Writing a folder of embedding shards so that a killed run can go on: what is finished is kept, after a look at every byte."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from mrl.bounded import read_json
from mrl.embeddings.formats import FAILURES, FORMAT, INDEX, JOB, Shard, ShardedEmbeddings, check_suffix, save_embeddings
from mrl.embeddings.mapping import FileFailure
from mrl.errors import DataError, InputError
from mrl.files import sha256_of, write_json, write_text

_LOG = logging.getLogger(__name__)
# What may differ between the run that began and the one that goes on.
_MAY_DIFFER = ("model", "package")


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    """Which recordings go where, and what is made of them.

    Attributes:
        ids: of all recordings, unique, in order.
        shard_size: recordings per shard.
        suffix: of the shards.
        dim: length of the embeddings.
        metadata: what they are made with.
    """

    ids: Sequence[str]
    shard_size: int
    suffix: str
    dim: int
    metadata: dict[str, Any]

    def __post_init__(self) -> None:
        if isinstance(self.shard_size, bool) or self.shard_size < 1:
            raise InputError(f"a shard must hold at least 1 recording, found shard_size={self.shard_size}")
        check_suffix(f"shard{self.suffix}")
        if len(set(self.ids)) != len(self.ids):
            raise InputError(
                f"{len(self.ids) - len(set(self.ids))} of {len(self.ids)} recordings are named twice; name each once"
            )
        strange = [name for name in self.ids if not _is_text(name)]
        if strange:
            raise InputError(
                f"the names of {len(strange)} of {len(self.ids)} recordings are not UTF-8 and cannot be written down, "
                f"the first is {strange[0]!r}; rename them"
            )

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return -(-len(self.ids) // self.shard_size)

    def stretch(self, number: int) -> Sequence[str]:
        """Return the recordings of one shard."""
        return self.ids[number * self.shard_size : (number + 1) * self.shard_size]

    def name(self, number: int) -> str:
        """Return the name of a shard without its suffix."""
        return f"shard-{number:05d}"

    def to_dict(self) -> dict[str, Any]:
        """Return what decides the embeddings, as JSON values; the recordings by a hash of their names."""
        digest = hashlib.sha256()
        for name in self.ids:
            digest.update(name.encode() + b"\0")
        return {
            "format": FORMAT,
            "recordings": len(self.ids),
            "recordings_sha256": digest.hexdigest(),
            "shard_size": self.shard_size,
            "suffix": self.suffix,
            "dim": self.dim,
            "metadata": self.metadata,
        }


class ShardWriter:
    """A folder that is being filled; opened by :meth:`open`.

    Attributes:
        folder: the folder.
        plan: what it is to hold.
        pending: numbers of the shards that are not finished.
    """

    def __init__(self, folder: Path, plan: ShardPlan, metadata: dict[str, Any]) -> None:
        self.folder, self.plan = folder, plan
        self._metadata = metadata
        self._shards: dict[int, Shard] = {}
        self._failures: dict[int, list[FileFailure]] = {}
        for number in range(plan.num_shards):
            self._find(number)
        self.pending = [number for number in range(plan.num_shards) if number not in self._shards]

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: str | os.PathLike[str], plan: ShardPlan) -> Iterator[ShardWriter]:
        """Begin, or go on with what an interrupted run of the same plan left; nobody else writes here meanwhile.

        Raises:
            DataError: the folder holds something else, or another process is writing to it.
            OSError: it cannot be written to or the disk is full.
        """
        place = Path(folder)
        _require_ours(place)
        place.mkdir(parents=True, exist_ok=True)
        with _locked(place):
            for left in place.glob(".*.tmp.*"):  # of a run that was killed while it wrote
                left.unlink()
            described = plan.to_dict()
            known = _read(place / JOB)
            if known is None:
                if any(place.glob("shard-*")):
                    raise DataError(
                        f"{place} holds shards, but its {JOB} is damaged; give another folder, or delete it to begin anew"
                    )
                write_json(place / JOB, described)
                known = described
            _require_same(place, known, described)
            writer = cls(place, plan, known["metadata"])
            if writer.pending:
                (place / INDEX).unlink(missing_ok=True)
            yield writer

    def write(self, number: int, ids: Sequence[str], matrix: npt.NDArray[np.float32], failures: Sequence[FileFailure]) -> None:
        """Write one shard; it counts as finished once its description stands beside it.

        Raises:
            OSError: the folder cannot be written to or the disk is full.
        """
        path = self.folder / f"{self.plan.name(number)}{self.plan.suffix}"
        save_embeddings(path, ids, matrix, self._metadata)
        shard = Shard(path.name, len(ids), len(self.plan.stretch(number)), path.stat().st_size, sha256_of(path))
        record = {**dataclasses.asdict(shard), "failures": [[str(one.path), one.reason] for one in failures]}
        write_json(self._record(number), record)
        self._shards[number], self._failures[number] = shard, list(failures)

    def finish(self) -> tuple[ShardedEmbeddings, tuple[FileFailure, ...]]:
        """Write the failures and the index; return the readable folder and the failures in the order of the input."""
        numbers = range(self.plan.num_shards)
        failures = tuple(failure for number in numbers for failure in self._failures[number])
        if failures:
            write_text(self.folder / FAILURES, _tsv(failures))
        else:
            (self.folder / FAILURES).unlink(missing_ok=True)
        index = {
            "format": FORMAT,
            "dim": self.plan.dim,
            "metadata": self._metadata,
            "failures": len(failures),
            "shards": [dataclasses.asdict(self._shards[number]) for number in numbers],
        }
        write_json(self.folder / INDEX, index)
        return ShardedEmbeddings.open(self.folder), failures

    def _find(self, number: int) -> None:
        """Take a shard as finished if its description is there and its file is what the description says."""
        record = _read(self._record(number))
        if record is None:
            return
        try:
            failures = [FileFailure(Path(path), str(reason)) for path, reason in record.pop("failures")]
            shard = Shard(**record)
            shard.check(self.folder, contents=True)
        except (DataError, KeyError, TypeError, ValueError) as error:
            _LOG.warning("%s is made again: %s", self.plan.name(number), error)
            return
        self._shards[number], self._failures[number] = shard, failures

    def _record(self, number: int) -> Path:
        return self.folder / f"{self.plan.name(number)}.json"


def _require_ours(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; give a folder, which is made if absent")
    if folder.is_dir() and not (folder / JOB).is_file():
        others = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        if others:
            raise DataError(f"{folder} holds other files ({sorted(others)[0]!r}, ...); give an empty or new folder")


def _require_same(folder: Path, known: dict[str, Any], wanted: dict[str, Any]) -> None:
    flat = [_flat(one) for one in (known, wanted)]
    different = [key for key in flat[1] if key not in _MAY_DIFFER and flat[0].get(key) != flat[1][key]]
    if different:
        shown = ", ".join(f"{key} {_short(flat[0].get(key))} instead of {_short(flat[1][key])}" for key in different)
        raise DataError(f"{folder} holds embeddings of another job ({shown}); give another folder, or delete it to begin anew")


def _flat(description: dict[str, Any]) -> dict[str, Any]:
    metadata = description.get("metadata")
    return {**{key: value for key, value in description.items() if key != "metadata"}, **(metadata or {})}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 24 else f"{text[:16]}…"


def _read(path: Path) -> dict[str, Any] | None:
    """Return a description, or None where there is none or it is no JSON: then what it describes does not count."""
    try:
        found = read_json(path)
    except (FileNotFoundError, DataError):
        return None
    return found if isinstance(found, dict) else None


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _tsv(failures: Sequence[FileFailure]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
    writer.writerow(("path", "reason"))
    writer.writerows((str(failure.path), " ".join(failure.reason.split())) for failure in failures)
    return stream.getvalue()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DataError(f"another process is writing to {folder}; wait for it, or give another folder") from error
    except NotImplementedError:
        _LOG.warning("%s lies on a file system without locks; make sure that nothing else writes there", folder)
    try:
        yield
    finally:
        lock.release()

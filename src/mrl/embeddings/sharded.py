"""A folder of embedding shards: many embedding files that are one table, read whole or shard by shard.

Layout:

- ``shard-00000.safetensors`` (or ``.npz``, ``.parquet``) and on: embedding files of :mod:`mrl.embeddings.formats`, each the
  recordings of one stretch of the input, in its order;
- ``shard-00000.json`` and on: rows, recordings, bytes and SHA-256 of each finished shard, and its failures with their reasons;
- ``job.json``, written first: what is being made, so that an interrupted run can go on;
- ``failures.tsv``, only where there were failures: columns ``path`` and ``reason``;
- ``index.json``, written last: metadata and all shards. Without it the folder is unfinished.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mrl.bounded import LIMITS, brief, read_json, record
from mrl.embeddings.formats import READABLE_SUFFIXES, EmbeddingTable, load_embeddings
from mrl.errors import DataError
from mrl.files import sha256_of

FORMAT = 1
INDEX, JOB, FAILURES = "index.json", "job.json", "failures.tsv"
_MEND = "copy it again, or make it anew by the same mrl embed"


@dataclasses.dataclass(frozen=True)
class Shard:
    """One embedding file: its name, its rows, how many recordings it stands for (failures too), its bytes and its SHA-256."""

    name: str
    rows: int
    recordings: int
    size: int
    sha256: str

    def check(self, folder: Path, *, contents: bool) -> None:
        """Raise :class:`DataError` unless the file is there with this size and, if asked for, these contents."""
        if Path(self.name).name != self.name or not self.name.isprintable() or not 0 <= self.rows <= self.recordings:
            raise DataError(f"{folder / INDEX} tells of a shard that cannot be ({brief(self.name)}, {self.rows} rows); {_MEND}")
        path = folder / self.name
        try:
            size = path.stat().st_size
            if size != self.size:
                what = "cut off" if size < self.size else "changed"
                raise DataError(f"{path} has {size} bytes, the index says {self.size}: it is {what}; {_MEND}")
            if contents and sha256_of(path) != self.sha256:
                raise DataError(f"{path} was changed: its SHA-256 is not the one in the index; {_MEND}")
        except OSError as error:
            raise DataError(f"{path} is missing or cannot be read ({error.strerror}); {_MEND}") from error


@dataclasses.dataclass(frozen=True)
class _Index:
    """What ``index.json`` holds."""

    format: int
    dim: int
    failures: int
    metadata: dict[str, Any]
    shards: tuple[Shard, ...]


class ShardedEmbeddings:
    """A finished folder of shards, opened by :meth:`open`; only the index is in memory.

    Attributes:
        folder: where the shards lie.
        shards: in the order of the input.
        dim: length of the embeddings.
        metadata: what they were made with (model, dim, ...), as in a single file.
        num_failures: recordings that could not be used; ``failures.tsv`` names them.
    """

    def __init__(self, folder: Path, shards: tuple[Shard, ...], dim: int, metadata: dict[str, Any], num_failures: int) -> None:
        self.folder, self.shards, self.dim = folder, shards, dim
        self.metadata, self.num_failures = metadata, num_failures

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> ShardedEmbeddings:
        """Read the index and compare the size of every shard.

        Raises:
            DataError: there is no finished folder of shards, or a shard is missing or cut off.
        """
        place = Path(folder)
        try:
            index = record(_Index, read_json(place / INDEX, advice=_MEND), str(place / INDEX), advice=_MEND)
        except FileNotFoundError as error:
            unfinished = (place / JOB).is_file()
            raise DataError(
                f"{place} holds unfinished embeddings; run the same mrl embed again to go on"
                if unfinished
                else f"{place} holds no embeddings ({INDEX} is not there); give a folder that mrl embed wrote, or a file"
            ) from error
        if index.format != FORMAT:
            raise DataError(f"{place / INDEX} is of format {index.format}, this version reads format {FORMAT}")
        for shard in index.shards:
            shard.check(place, contents=False)
        promised = 4 * index.dim * sum(shard.rows for shard in index.shards)
        if index.dim < 1 or promised > LIMITS.unpacked(sum(shard.size for shard in index.shards)):
            raise DataError(f"{place / INDEX} promises {promised:,} bytes of embeddings, more than its shards hold; {_MEND}")
        return cls(place, index.shards, index.dim, index.metadata, index.failures)

    def __len__(self) -> int:
        """Return the number of embeddings."""
        return sum(shard.rows for shard in self.shards)

    def __iter__(self) -> Iterator[EmbeddingTable]:
        """Yield one table after the other; those before are not kept.

        Raises:
            DataError: a shard is damaged or does not fit the index.
        """
        for shard in self.shards:
            table = load_embeddings(self.folder / shard.name)
            if table.matrix.shape != (shard.rows, self.dim):
                expected = (shard.rows, self.dim)
                raise DataError(f"{self.folder / shard.name} holds {table.matrix.shape}, the index says {expected}; {_MEND}")
            yield table

    def verify(self) -> None:
        """Read every shard and compare its SHA-256.

        Raises:
            DataError: a shard is not as it was written.
        """
        for shard in self.shards:
            shard.check(self.folder, contents=True)

    def load(self) -> EmbeddingTable:
        """Return everything as one table.

        Raises:
            DataError: a shard is damaged, or ids are repeated.
        """
        matrix = np.empty((len(self), self.dim), dtype=np.float32)
        ids: list[str] = []
        for table in self:
            matrix[len(ids) : len(ids) + len(table.ids)] = table.matrix
            ids += table.ids
        if len(set(ids)) != len(ids):
            raise DataError(f"{self.folder}: {len(ids) - len(set(ids))} of {len(ids)} ids are repeated; every id must be unique")
        return EmbeddingTable(tuple(ids), matrix, dict(self.metadata))


def is_sharded(path: str | os.PathLike[str]) -> bool:
    """Return whether ``path`` is a folder of embedding shards, finished or not."""
    place = Path(path)
    return (place / INDEX).is_file() or (place / JOB).is_file()


def holds_embeddings(path: str | os.PathLike[str]) -> bool:
    """Return whether ``path`` is named like an embedding file, or is a folder of shards: something to load, not a network."""
    return Path(path).suffix.lower() in READABLE_SUFFIXES or is_sharded(path)


def embeddings_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of an embedding file, or of the index of a folder of shards, which holds theirs."""
    return sha256_of(Path(path) / INDEX if Path(path).is_dir() else path)

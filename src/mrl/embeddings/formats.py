"""Embedding files: ``.npz``, ``.parquet`` and ``.safetensors``, all without pickle; Kaldi's ``.ark`` and ``.scp`` are only read.

Each holds one row per recording, its id (usually a path), and metadata (which model, which dim, ...):

- ``.npz``: arrays ``ids`` (unicode), ``embeddings`` (n, dim) float32 and ``metadata`` (a JSON text).
- ``.parquet``: columns ``id`` (string) and ``embedding`` (list of dim float32); the metadata is JSON under ``mrl`` in the schema.
- ``.safetensors``: tensors ``embeddings`` (n, dim) float32 and ``ids`` (the UTF-8 bytes of a JSON list), and ``metadata`` in the
  header.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.bounded import LIMITS, brief, kind_of, parse_json, read_json, read_npz, read_safetensors, record, require_floats
from mrl.bounded_tables import embedding_columns, read_parquet
from mrl.embeddings.kaldi import KALDI_SUFFIXES, read_kaldi
from mrl.errors import DataError, InputError, MissingDependencyError
from mrl.files import atomic_path, sha256_of

EMBEDDING_SUFFIXES = (".npz", ".parquet", ".safetensors")
"""Suffixes of the files that :func:`save_embeddings` writes."""


READABLE_SUFFIXES = (*EMBEDDING_SUFFIXES, *KALDI_SUFFIXES)
"""Suffixes of the files that :func:`load_embeddings` reads."""


@dataclass(frozen=True, eq=False)
class EmbeddingTable:
    """Embeddings with their ids.

    Attributes:
        ids: (n,) unique names, usually paths.
        matrix: (n, dim) float32.
        metadata: what the writer noted (model, dim, ...); empty for files of others.
    """

    ids: tuple[str, ...]
    matrix: npt.NDArray[np.float32]
    metadata: dict[str, Any]


def save_embeddings(
    path: str | os.PathLike[str], ids: Sequence[str], matrix: npt.ArrayLike, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write embeddings, atomically, in the format that the suffix of ``path`` names.

    Args:
        path: ends in ``.npz``, ``.parquet`` or ``.safetensors``.
        ids: one unique name per row.
        matrix: (n, dim), written as float32.
        metadata: anything that JSON can hold.

    Raises:
        InputError: unknown suffix, repeated ids, or a matrix that does not fit them or is not finite.
        MissingDependencyError: ``.parquet`` without pyarrow.
        OSError: the folder cannot be written to or the disk is full; a file that was there is kept.
    """
    file = Path(path)
    write = _format_of(file, _WRITERS)
    rows = np.ascontiguousarray(matrix, dtype=np.float32)
    names = [str(name) for name in ids]
    if rows.ndim != 2 or len(rows) != len(names):
        raise InputError(f"embeddings must be (n, dim) with one id per row; found shape {rows.shape} and {len(names)} ids")
    if len(set(names)) != len(names):
        raise InputError(f"{len(names) - len(set(names))} of {len(names)} ids are repeated; every id must be unique")
    if not np.isfinite(rows).all():
        raise InputError(f"{np.count_nonzero(~np.isfinite(rows).all(axis=1))} of {len(rows)} embeddings hold NaN or infinity")
    try:
        notes = json.dumps(dict(metadata or {}), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"metadata of an embedding file must be JSON: {error}") from None
    with atomic_path(file) as temporary:
        write(temporary, names, rows, notes)


def load_embeddings(path: str | os.PathLike[str]) -> EmbeddingTable:
    """Read a file that :func:`save_embeddings` wrote, one of the same layout, a Kaldi archive (:mod:`mrl.embeddings.kaldi`), or
    a folder of shards (:mod:`mrl.embeddings.formats`, which can also be read shard by shard).

    Raises:
        InputError: unknown suffix.
        DataError: the file or folder is missing, damaged, unfinished, or of another layout.
        MissingDependencyError: ``.parquet`` without pyarrow.
    """
    file = Path(path)
    if file.is_dir():
        return ShardedEmbeddings.open(file).load()
    read = _format_of(file, _READERS)
    try:
        names, rows, notes = read(file)
    except FileNotFoundError:
        raise DataError(f"embedding file {file} does not exist") from None
    metadata = parse_json(notes, f"the metadata of {file}", advice=_ADVICE)
    if rows.ndim != 2 or not rows.shape[1] or len(rows) != len(names) or not isinstance(metadata, dict):
        raise DataError(f"{file}: expected (n, dim) embeddings, one id per row; found shape {rows.shape} and {len(names)} ids")
    wrong = next((name for name in names if not isinstance(name, str)), None)
    if wrong is not None or not all(isinstance(name, str) for name in names):
        raise DataError(f"{file}: an id is {kind_of(wrong)}, expected texts; {_ADVICE}")
    if len(set(names)) != len(names):
        raise DataError(f"{file}: {len(names) - len(set(names))} of {len(names)} ids are repeated; every id must be unique")
    require_floats({"embeddings": rows}, str(file), advice=_ADVICE)
    with np.errstate(over="ignore"):
        matrix = np.require(rows, dtype=np.float32, requirements=["C", "W"])  # what a file gives may be read-only
    require_floats({"embeddings": matrix}, f"{file} in 32 bits", advice=_ADVICE)  # doubles may be beyond it
    return EmbeddingTable(tuple(names), matrix, metadata)


def check_suffix(path: str | os.PathLike[str]) -> None:
    """Make sure, before the work begins, that ``path`` can be written.

    Raises:
        InputError: it does not end in the suffix of an embedding file.
        MissingDependencyError: ``.parquet`` without pyarrow.
    """
    if _format_of(Path(path), _WRITERS) is _write_parquet:
        pyarrow_modules()


_Contents = tuple[list[str], npt.NDArray[Any], str]


_Writer = Callable[[Path, list[str], npt.NDArray[np.float32], str], None]


_Reader = Callable[[Path], _Contents]


_ADVICE = "write it again"


def _format_of(file: Path, formats: dict[str, Any]) -> Any:
    if file.suffix.lower() not in formats:
        raise InputError(f"{file}: {file.suffix!r} is no suffix of an embedding file; expected one of {', '.join(formats)}")
    return formats[file.suffix.lower()]


def _write_npz(file: Path, names: list[str], rows: npt.NDArray[np.float32], notes: str) -> None:
    with file.open("wb") as stream:
        np.savez(stream, ids=np.array(names, dtype=np.str_), embeddings=rows, metadata=np.array(notes))


def _read_npz(file: Path) -> _Contents:
    arrays = read_npz(file, {"ids": "U", "embeddings": "f", "metadata": "U"}, optional=("metadata",), advice=_ADVICE)
    if arrays["ids"].ndim != 1 or ("metadata" in arrays and arrays["metadata"].ndim):
        raise DataError(f"{file}: 'ids' must be a list and 'metadata' one text; {_ADVICE}")
    return arrays["ids"].tolist(), arrays["embeddings"], str(arrays.get("metadata", "{}"))


def pyarrow_modules() -> tuple[Any, Any]:
    """Return pyarrow and pyarrow.parquet.

    Raises:
        MissingDependencyError: they are not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError('.parquet files need pyarrow: pip install "redimnet-mrl[parquet]"') from error
    return pyarrow, pyarrow.parquet


def _write_parquet(file: Path, names: list[str], rows: npt.NDArray[np.float32], notes: str) -> None:
    pyarrow, parquet = pyarrow_modules()
    vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.ravel()), rows.shape[1])
    table = pyarrow.table({"id": pyarrow.array(names, pyarrow.string()), "embedding": vectors})
    parquet.write_table(table.replace_schema_metadata({"mrl": notes}), file)


def _read_parquet(file: Path) -> _Contents:
    pyarrow_modules()
    table = read_parquet(file, ("id", "embedding"), advice=_ADVICE)
    return (*embedding_columns(table, file), (table.schema.metadata or {}).get(b"mrl", b"{}").decode("utf-8", "replace"))


def _write_safetensors(file: Path, names: list[str], rows: npt.NDArray[np.float32], notes: str) -> None:
    from safetensors.numpy import save

    text = np.frombuffer(json.dumps(names, ensure_ascii=False).encode(), dtype=np.uint8)
    file.write_bytes(save({"embeddings": rows, "ids": text}, metadata={"metadata": notes}))


def _read_safetensors(file: Path) -> _Contents:
    found = read_safetensors(file, required=("ids", "embeddings"), advice=_ADVICE)
    ids, rows = (found.tensors[name] for name in ("ids", "embeddings"))
    if ids.dtype != np.uint8:
        raise DataError(f"{file}: 'ids' holds {ids.dtype}, expected the bytes of a JSON list; {_ADVICE}")
    names = parse_json(ids.tobytes(), f"the list of ids in {file}", advice=_ADVICE)
    if not isinstance(names, list):
        raise DataError(f"{file}: 'ids' holds {kind_of(names)}, expected a list; {_ADVICE}")
    return names, rows, found.notes.get("metadata", "{}")


def _read_kaldi(file: Path) -> _Contents:
    names, rows = read_kaldi(file)
    return names, rows, "{}"


_WRITERS: dict[str, _Writer] = {".npz": _write_npz, ".parquet": _write_parquet, ".safetensors": _write_safetensors}


_READERS: dict[str, _Reader] = {
    ".npz": _read_npz,
    ".parquet": _read_parquet,
    ".safetensors": _read_safetensors,
    ".ark": _read_kaldi,
    ".scp": _read_kaldi,
}


# A folder of embedding shards: many embedding files that are one table, read whole or shard by shard.
#
# Layout:
#
# - ``shard-00000.safetensors`` (or ``.npz``, ``.parquet``) and on: embedding files of :mod:`mrl.embeddings.formats`, each the
#   recordings of one stretch of the input, in its order;
# - ``shard-00000.json`` and on: rows, recordings, bytes and SHA-256 of each finished shard, and its failures with their reasons;
# - ``job.json``, written first: what is being made, so that an interrupted run can go on;
# - ``failures.tsv``, only where there were failures: columns ``path`` and ``reason``;
# - ``index.json``, written last: metadata and all shards. Without it the folder is unfinished.


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

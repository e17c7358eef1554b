"""Embedding files: ``.npz``, ``.parquet`` and ``.safetensors``, all without pickle; Kaldi's ``.ark`` and ``.scp`` are only read.

Each holds one row per recording, its id (usually a path), and metadata (which model, which dim, ...):

- ``.npz``: arrays ``ids`` (unicode), ``embeddings`` (n, dim) float32 and ``metadata`` (a JSON text).
- ``.parquet``: columns ``id`` (string) and ``embedding`` (list of dim float32); the metadata is JSON under ``mrl`` in the schema.
- ``.safetensors``: tensors ``embeddings`` (n, dim) float32 and ``ids`` (the UTF-8 bytes of a JSON list), and ``metadata`` in the
  header.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.bounded import kind_of, parse_json, read_npz, read_safetensors, require_floats
from mrl.bounded_tables import embedding_columns, read_parquet
from mrl.embeddings.kaldi import KALDI_SUFFIXES, read_kaldi
from mrl.errors import DataError, InputError, MissingDependencyError
from mrl.files import atomic_path

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
    a folder of shards (:mod:`mrl.embeddings.sharded`, which can also be read shard by shard).

    Raises:
        InputError: unknown suffix.
        DataError: the file or folder is missing, damaged, unfinished, or of another layout.
        MissingDependencyError: ``.parquet`` without pyarrow.
    """
    file = Path(path)
    if file.is_dir():
        from mrl.embeddings.sharded import ShardedEmbeddings

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
        matrix = np.ascontiguousarray(rows, dtype=np.float32)
    require_floats({"embeddings": matrix}, f"{file} in 32 bits", advice=_ADVICE)  # doubles may be beyond it
    return EmbeddingTable(tuple(names), matrix, metadata)


def check_suffix(path: str | os.PathLike[str]) -> None:
    """Make sure, before the work begins, that ``path`` can be written.

    Raises:
        InputError: it does not end in the suffix of an embedding file.
        MissingDependencyError: ``.parquet`` without pyarrow.
    """
    if _format_of(Path(path), _WRITERS) is _write_parquet:
        _pyarrow()


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


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError('.parquet files need pyarrow: pip install "redimnet-mrl[parquet]"') from error
    return pyarrow, pyarrow.parquet


def _write_parquet(file: Path, names: list[str], rows: npt.NDArray[np.float32], notes: str) -> None:
    pyarrow, parquet = _pyarrow()
    vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.ravel()), rows.shape[1])
    table = pyarrow.table({"id": pyarrow.array(names, pyarrow.string()), "embedding": vectors})
    parquet.write_table(table.replace_schema_metadata({"mrl": notes}), file)


def _read_parquet(file: Path) -> _Contents:
    _pyarrow()
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

"""Reading Parquet that somebody else may have written: what it would unpack to is counted before anything is.

pyarrow is needed where a function of this module is called.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mrl.bounded import LIMITS, ErrorKind, absence, brief, open_regular, said
from mrl.errors import DataError, MRLError

_BYTES_PER_VALUE = 16  # of a nested number with its levels while it is decoded
_FOOTER_DEPTH = 16

# Fields of Parquet's footer by their numbers in parquet.thrift.
_ROW_GROUPS, _COLUMNS, _COLUMN_METADATA, _ENCRYPTED = 4, 1, 3, {8, 9}
_COLUMN_PATH, _NUM_VALUES, _UNPACKED_BYTES = 3, 5, 6


def read_parquet(
    path: str | os.PathLike[str], columns: Collection[str] | None = None, *, error: ErrorKind = DataError, advice: str = ""
) -> Any:
    """Return columns of a Parquet file as a ``pyarrow.Table``; texts stay in dictionaries, so that repeated ones take no room.

    Args:
        path: the file.
        columns: names that must be there; all that are there by default.
        error: class of the error.
        advice: what the user can do about it.

    Raises:
        FileNotFoundError: there is none.
        MRLError: of the kind ``error``.
    """
    import pyarrow
    from pyarrow import parquet

    name = os.fspath(path)
    end = f"; {advice}" if advice else ""
    try:
        with open_regular(path, error=error, advice=advice) as stream:
            allowed = LIMITS.unpacked(os.fstat(stream.fileno()).st_size)
            with parquet.ParquetFile(stream) as opened:
                schema = opened.schema_arrow
                missing = [column for column in columns or () if column not in schema.names]
                if missing:
                    raise error(f"{absence(name, columns or (), schema.names)}{end}")
                wanted = list(columns) if columns is not None else list(schema.names)
                promised = _promised_bytes(stream, opened.metadata.num_rows, wanted)
                if promised > allowed:
                    raise error(
                        f"{name} would unpack to {promised:,} bytes, {allowed:,} are allowed for a file of this size{end}"
                    )
            stream.seek(0)
            texts = [column for column in wanted if _is_text(schema.field(column).type)]
            with parquet.ParquetFile(stream, read_dictionary=texts) as opened:
                table = opened.read(columns=wanted, use_threads=False)
            table.validate(full=True)  # texts are UTF-8, lists end where they say
    except (MRLError, FileNotFoundError):
        raise
    except (
        pyarrow.ArrowException,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        MemoryError,
        OverflowError,
        AttributeError,
    ) as reason:
        raise error(f"{name} is damaged or not Parquet ({said(reason)}){end}") from reason
    held = sum(_text_bytes(column) for column in table.columns if pyarrow.types.is_dictionary(column.type))
    if held > allowed:
        raise error(f"{name} holds texts of {held:,} bytes, {allowed:,} are allowed for a file of this size{end}")
    return table


def _is_text(kind: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))


def _promised_bytes(stream: BinaryIO, num_rows: int, wanted: Collection[str]) -> int:
    """Return the bytes that columns may take once decoded, by the footer's own figures.

    pyarrow ends the process where the description of a column is encrypted or damaged, so the footer is looked at here.
    """
    stream.seek(-8, os.SEEK_END)
    length = int.from_bytes(stream.read(4), "little")
    stream.seek(-8 - length, os.SEEK_END)
    total = _BYTES_PER_VALUE * num_rows
    promised = 0
    for row_group in _Compact(stream.read(length)).struct(0).get(_ROW_GROUPS, []):
        for column in row_group.get(_COLUMNS, []):
            described = column.get(_COLUMN_METADATA)
            if not isinstance(described, dict) or _ENCRYPTED & column.keys():
                raise ValueError("a column is encrypted or not described")
            path, values, unpacked = (described.get(field) for field in (_COLUMN_PATH, _NUM_VALUES, _UNPACKED_BYTES))
            if not (isinstance(path, list) and path and isinstance(values, int) and isinstance(unpacked, int)):
                raise ValueError("the description of a column is damaged")
            if path[0] in {name.encode() for name in wanted}:
                promised += max(unpacked, _BYTES_PER_VALUE * max(values, 0))
    return max(promised, total)


class _Compact:
    """Reads Thrift's compact protocol, in which Parquet keeps its footer, into dictionaries by field number.

    Source: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md, and parquet.thrift for the fields.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def struct(self, depth: int) -> dict[int, Any]:
        if depth > _FOOTER_DEPTH:
            raise ValueError("the footer is nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._take(1)[0]:
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2, 3):
            return self._take(1)[0]
        if kind in (4, 5, 6):
            return self._integer()
        if kind == 7:
            return self._take(8)
        if kind == 8:
            return self._take(self._unsigned())
        if kind in (9, 10):
            head = self._take(1)[0]
            size = self._unsigned() if head >> 4 == 15 else head >> 4
            return [self._value(head & 15, depth + 1) for _ in range(self._possible(size))]
        if kind == 11:
            size = self._possible(self._unsigned())
            kinds = self._take(1)[0] if size else 0
            return [(self._value(kinds >> 4, depth + 1), self._value(kinds & 15, depth + 1)) for _ in range(size)]
        if kind == 12:
            return self.struct(depth + 1)
        raise ValueError("the footer is damaged")

    def _possible(self, size: int) -> int:
        if size > len(self._data) - self._at:  # every element takes a byte at least
            raise ValueError("the footer is damaged")
        return size

    def _take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + self._possible(size)]
        self._at += size
        return taken

    def _unsigned(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("the footer is damaged")

    def _integer(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)


def _text_bytes(column: Any) -> int:
    """Return how many bytes the texts of a column take once each row has its own."""
    import pyarrow.compute

    if not _is_text(column.type.value_type):
        return _BYTES_PER_VALUE * len(column)
    total = 0
    for chunk in column.chunks:
        lengths = pyarrow.compute.fill_null(pyarrow.compute.binary_length(chunk.dictionary), 0).to_numpy(zero_copy_only=False)
        places = pyarrow.compute.drop_null(chunk.indices).to_numpy(zero_copy_only=False)
        total += int(lengths[places].sum(dtype=np.int64)) if len(lengths) else 0
    return total


def embedding_columns(table: Any, file: Path, *, error: ErrorKind = DataError) -> tuple[list[str], npt.NDArray[Any]]:
    """Return the column ``id`` and the (n, dim) matrix in the column ``embedding``, each of whose rows is looked at.

    Raises:
        MRLError: of the kind ``error``: rows of different lengths, missing rows or values, or anything but lists of
            floating-point values.
    """
    import pyarrow

    vectors = table.column("embedding").combine_chunks()
    kind = vectors.type
    is_list = any(test(kind) for test in (pyarrow.types.is_list, pyarrow.types.is_large_list, pyarrow.types.is_fixed_size_list))
    if not is_list or not pyarrow.types.is_floating(kind.value_type):
        raise error(f"{file}: 'embedding' holds {brief(str(kind))}, expected lists of floating-point numbers; write it again")
    lengths = vectors.value_lengths()
    if vectors.null_count or lengths.null_count:
        raise error(f"{file}: {vectors.null_count} of {len(vectors)} rows have no embedding; write it again")
    counts = np.unique(lengths.to_numpy(zero_copy_only=False))
    if len(counts) > 1:
        raise error(f"{file}: its embeddings have different lengths ({', '.join(map(str, counts[:5]))}); write it again")
    numbers = vectors.flatten()
    if numbers.null_count:
        raise error(f"{file}: {numbers.null_count} numbers of its embeddings are missing; write it again")
    width = int(counts[0]) if len(counts) else getattr(kind, "list_size", 0)
    ids = table.column("id")
    text = ids.type.value_type if pyarrow.types.is_dictionary(ids.type) else ids.type
    if not _is_text(text) or ids.null_count:
        raise error(
            f"{file}: 'id' holds {brief(str(text))}, {ids.null_count} missing; expected a text in every row; write it again"
        )
    matrix = numbers.to_numpy(zero_copy_only=False).reshape(table.num_rows, width)
    return ids.to_pylist(), matrix

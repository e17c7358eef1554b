"""All voices of a store as matrices for search: memory-mapped from a side file for large stores, made in memory for small ones.

A side file (``STORE.search-DIM``) holds, for one prefix length: the voices' numbers, their embeddings in the store's format,
their *heads* and signs. It names the state of the store that it was made from, and is written again when the store has changed.
Names stay in the store. Layout: ``MRLVOICE``, the length of a JSON header as an unsigned 64-bit number, the header, then the
arrays, all little-endian, each at the offset that the header tells.

A head is the first :data:`HEAD_DIM` numbers of a voice at unit length, then the length of the rest, then 1 / the length of each
prefix of :data:`PREFIX_DIMS`. Heads lie in blocks of (HEAD_ROWS, block_voices): number ``i`` of all voices in a block is
contiguous, so that scoring a block is a sum of a few long rows, at the speed of memory. The signs of all numbers lie likewise, in
blocks of (words, block_voices) 64-bit words, the bits as in the format ``binary``.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.bounded import parse_json
from mrl.embeddings.compact import EmbeddingFormat, Encoded, bytes_per_embedding, decode_embeddings, encode_embeddings
from mrl.errors import DataError, MRLError
from mrl.identification.database import side_files, side_lock, side_path, unfinished_path
from mrl.identification.store import FloatMatrix, VoiceStore

HEAD_DIM = 64
PREFIX_DIMS = (32, HEAD_DIM)
"""Prefix lengths that shortlists can be made by."""

HEAD_ROWS = HEAD_DIM + 1 + len(PREFIX_DIMS)
SIDE_FILE_VOICES = 2_000
"""From this many voices on a side file is kept; fewer are read from the store as fast."""

_BLOCK_VOICES = 65_536
_ROWS_AT_ONCE = 16_384
_MAGIC = b"MRLVOICE"
_ALIGNMENT = 64


@dataclass(frozen=True, eq=False)
class VoiceMatrix:
    """The voices of a store at one prefix length.

    Attributes:
        numbers: (voices,) int64, the store's numbers of the voices.
        encoded: (voices, bytes) in the store's format, see :mod:`mrl.embeddings.compact`.
        heads: (blocks, HEAD_ROWS, block_voices) float32; None where heads would not be much shorter than the embeddings.
        signs: (blocks, words, block_voices) uint64; None where there are no heads.
        form: the format.
        dim: prefix length.
        revision: the state of the store that this is.
    """

    numbers: npt.NDArray[np.int64]
    encoded: Encoded
    heads: npt.NDArray[np.float32] | None
    signs: npt.NDArray[np.uint64] | None
    form: EmbeddingFormat
    dim: int
    revision: str

    def __len__(self) -> int:
        return len(self.numbers)

    def embeddings(self, rows: slice | npt.NDArray[np.int64]) -> FloatMatrix:
        """Return some voices (n, dim) float32 at unit length."""
        if self.form == "float32":
            held: FloatMatrix = self.encoded[rows].view("<f4")  # checked when it was laid out; nothing to decode
            return held
        return decode_embeddings(self.encoded[rows], self.form, self.dim)

    def head_blocks(self) -> Iterator[tuple[int, FloatMatrix]]:
        """Yield (row of the first voice, heads (HEAD_ROWS, voices)) of each block; nothing where there are no heads."""
        for index, block in enumerate(() if self.heads is None else self.heads):
            first = index * block.shape[1]
            yield first, block[:, : len(self) - first]

    def sign_blocks(self) -> Iterator[tuple[int, npt.NDArray[np.uint64]]]:
        """Yield (row of the first voice, signs (words, voices)) of each block; nothing where there are no heads."""
        for index, block in enumerate(() if self.signs is None else self.signs):
            first = index * block.shape[1]
            yield first, block[:, : len(self) - first]


def load_voices(store: VoiceStore, target_dim: int | None = None, *, side_file_voices: int = SIDE_FILE_VOICES) -> VoiceMatrix:
    """Return the voices of a store for search, in its present state.

    Args:
        store: the store.
        target_dim: prefix length; all dimensions by default.
        side_file_voices: keep a side file from this many voices on. One that cannot be written (a read-only folder) is done
            without: the matrices are made in memory.

    Raises:
        DataError: the store is damaged, or the disk is full.
        InputError: ``target_dim`` not in 1..embed_dim.
    """
    dim = store.check_dim(target_dim)
    store.finish_deletion(wait=False)
    if len(store) < side_file_voices or not os.access(store.path.parent, os.W_OK):
        return _in_memory(store, dim)
    with side_lock(store.path):
        mapped = _map(store, dim)
        if mapped is None:
            try:
                _write(store, dim)
            except OSError as error:
                unfinished_path(store.path, dim).unlink(missing_ok=True)
                raise DataError(
                    f"{side_path(store.path, dim)} cannot be written ({error.strerror or error}); make room"
                ) from error
            mapped = _map(store, dim)
    # Another process has changed the store since; its changes are this search's to miss.
    return _in_memory(store, dim) if mapped is None else mapped


def voices_in_memory(
    embeddings: FloatMatrix, form: EmbeddingFormat = "float32", numbers: npt.NDArray[np.int64] | None = None
) -> VoiceMatrix:
    """Return voices (voices, dim) float32 that are in no store, laid out for search; they are numbered from 0 by default."""
    dim = embeddings.shape[1]
    given = np.arange(len(embeddings), dtype=np.int64) if numbers is None else numbers
    arrays = {name: np.zeros(shape, dtype=kind) for name, (kind, shape) in _layout(len(embeddings), dim, form).items()}
    starts = range(0, len(embeddings), _ROWS_AT_ONCE)
    blocks = ((given[at : at + _ROWS_AT_ONCE], embeddings[at : at + _ROWS_AT_ONCE]) for at in starts)
    _fill(arrays, blocks, form, dim)
    return _matrix(arrays, form, dim, "")


def _in_memory(store: VoiceStore, dim: int) -> VoiceMatrix:
    revision, count, blocks = store.scan(dim)
    arrays = {name: np.zeros(shape, dtype=kind) for name, (kind, shape) in _layout(count, dim, store.form).items()}
    _fill(arrays, blocks, store.form, dim)
    return _matrix(arrays, store.form, dim, revision)


def _matrix(arrays: dict[str, Any], form: EmbeddingFormat, dim: int, revision: str) -> VoiceMatrix:
    return VoiceMatrix(arrays["numbers"], arrays["encoded"], arrays.get("heads"), arrays.get("signs"), form, dim, revision)


def _layout(count: int, dim: int, form: EmbeddingFormat) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return type and shape of each array."""
    layout: dict[str, tuple[str, tuple[int, ...]]] = {
        "numbers": ("<i8", (count,)),
        "encoded": ("u1", (count, bytes_per_embedding(form, dim))),
    }
    if dim >= 2 * HEAD_DIM and form != "binary" and count:
        block = min(_BLOCK_VOICES, count)
        blocks = -(-count // block)
        layout["heads"] = ("<f4", (blocks, HEAD_ROWS, block))
        layout["signs"] = ("<u8", (blocks, bytes_per_embedding("binary", dim) // 8, block))
    return layout


def _fill(
    arrays: dict[str, Any], blocks: Iterator[tuple[npt.NDArray[np.int64], FloatMatrix]], form: EmbeddingFormat, dim: int
) -> None:
    first = 0
    for numbers, embeddings in blocks:
        encoded = encode_embeddings(embeddings, form)
        arrays["numbers"][first : first + len(numbers)] = numbers
        arrays["encoded"][first : first + len(numbers)] = encoded
        if "heads" in arrays:
            held = decode_embeddings(encoded, form, dim)
            _fill_columns(arrays["heads"], first, _heads(held))
            _fill_columns(arrays["signs"], first, encode_embeddings(held, "binary").view("<u8"))
        first += len(numbers)


def _heads(held: FloatMatrix) -> FloatMatrix:
    """Return the heads (n, HEAD_ROWS) of voices as they are held, which is what they will be compared as."""
    head, rest = held[:, :HEAD_DIM], held[:, HEAD_DIM:]
    lengths = [
        np.sqrt(np.einsum("nd,nd->n", part, part, dtype=np.float64)) for part in (rest, *(head[:, :p] for p in PREFIX_DIMS))
    ]
    # A prefix of next to nothing: its direction tells nothing.
    inverses = [1.0 / np.maximum(length, 1e-6) for length in lengths[1:]]
    heads: FloatMatrix = np.column_stack([head, lengths[0], *inverses]).astype(np.float32)
    return heads


def _fill_columns(blocks: npt.NDArray[Any], first: int, rows: npt.NDArray[Any]) -> None:
    """Write rows (n, width), those from ``first`` on, into blocks (blocks, width, block_voices)."""
    size, done = blocks.shape[2], 0
    while done < len(rows):
        index, column = divmod(first + done, size)
        count = min(size - column, len(rows) - done)
        blocks[index, :, column : column + count] = rows[done : done + count].T
        done += count


def _write(store: VoiceStore, dim: int) -> None:
    """Make the side file; the lock is held."""
    revision, count, blocks = store.scan(dim)
    layout = _layout(count, dim, store.form)
    sections: dict[str, dict[str, Any]] = {}
    end = 0
    for name, (kind, shape) in layout.items():
        sections[name] = {"dtype": kind, "shape": shape, "offset": end}
        end += -(-int(np.prod(shape)) * np.dtype(kind).itemsize // _ALIGNMENT) * _ALIGNMENT
    header = json.dumps({"revision": revision, "dim": dim, "form": store.form, "bytes": end, "arrays": sections}).encode()
    header += b" " * (-(len(_MAGIC) + 8 + len(header)) % _ALIGNMENT)
    start = len(_MAGIC) + 8 + len(header)
    unfinished = unfinished_path(store.path, dim)
    unfinished.unlink(missing_ok=True)
    with (
        contextlib.closing(blocks),  # type: ignore[type-var]
        os.fdopen(os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR), "r+b") as stream,
    ):
        stream.write(_MAGIC + len(header).to_bytes(8, "little") + header)
        _reserve(stream.fileno(), start + end)
        arrays = {
            name: np.memmap(stream, dtype=kind, mode="r+", shape=shape, offset=start + sections[name]["offset"])
            for name, (kind, shape) in layout.items()
        }
        _fill(arrays, blocks, store.form, dim)
        for array in arrays.values():
            array.flush()
    unfinished.replace(side_path(store.path, dim))


def _reserve(descriptor: int, size: int) -> None:
    """Make a file ``size`` bytes long with room on the disk: writing to the map of a file without room kills the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    chunk = b"\0" * (1 << 20)
    end = os.lseek(descriptor, 0, os.SEEK_END)
    while end < size:
        end += os.write(descriptor, chunk[: size - end])


def _map(store: VoiceStore, dim: int) -> VoiceMatrix | None:
    """Return the side file's arrays; None, and older side files are gone, where there is none of the store's present state."""
    path, revision = side_path(store.path, dim), store.revision()
    header = _read_header(path)
    if header is None or header["revision"] != revision or header["form"] != store.form or header["dim"] != dim:
        for file in side_files(store.path):
            if file == path or file == unfinished_path(store.path, dim):
                file.unlink(missing_ok=True)
        return None
    arrays = {
        name: np.memmap(
            path, dtype=entry["dtype"], mode="r", shape=tuple(entry["shape"]), offset=header["start"] + entry["offset"]
        )
        for name, entry in header["arrays"].items()
    }
    return _matrix(arrays, store.form, dim, revision)


def _read_header(path: Path) -> dict[str, Any] | None:
    """Return the header of a side file with the place where the arrays start; None for a file that is missing or damaged."""
    try:
        with path.open("rb") as stream:
            if stream.read(len(_MAGIC)) != _MAGIC:
                return None
            size = int.from_bytes(stream.read(8), "little")
            header: dict[str, Any] = parse_json(stream.read(min(size, 1 << 16)), str(path))
            header["start"] = len(_MAGIC) + 8 + size
            whole = header["start"] + header["bytes"] == path.stat().st_size
            layout = _layout(math.prod(header["arrays"]["numbers"]["shape"]), header["dim"], header["form"])
            end = header["bytes"]
            for name, (kind, shape) in layout.items():
                entry = header["arrays"][name]
                held = math.prod(shape) * np.dtype(kind).itemsize
                fits = entry["dtype"] == kind and tuple(entry["shape"]) == shape and 0 <= entry["offset"] <= end - held
                whole = whole and fits and type(entry["offset"]) is int
            whole = whole and set(layout) == set(header["arrays"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, MRLError):
        return None
    return header if whole else None

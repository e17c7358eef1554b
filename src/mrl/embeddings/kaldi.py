"""Reading vectors from Kaldi archives: ``.ark``, binary or text, and the ``.scp`` lists that point into them.

WeSpeaker, NeMo and SpeechBrain recipes and Kaldi itself write embeddings this way. Binary: the key, a space, a zero byte, ``B``,
the type ``FV`` (floats) or ``DV`` (doubles), a space, byte 4, the length as int32, the numbers; matrices (``FM``, ``DM``) of one
row count as vectors. Text: ``KEY [ 0.1 0.2 ]``. A line of an ``.scp`` is ``KEY FILE:OFFSET``; a relative FILE is looked for in
the working directory, as Kaldi does, and then beside the ``.scp``.
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from mrl.bounded import open_regular, read_text, said
from mrl.errors import DataError

KALDI_SUFFIXES = (".ark", ".scp")
"""Suffixes of the Kaldi files that :func:`mrl.embeddings.load_embeddings` reads."""

_Vector = npt.NDArray[np.float32]
_LONGEST_KEY = 4096
_MOST_NUMBERS = 1 << 20
_LONGEST_LINE = 32 * _MOST_NUMBERS
_OFFSET = re.compile("[0-9]{1,18}")


def read_kaldi(path: Path) -> tuple[list[str], _Vector]:
    """Return the keys and the (n, dim) float32 matrix of an archive or of what a list points to.

    Raises:
        DataError: a file is missing, damaged, or holds something else than vectors of one length.
    """
    try:
        items = list(_scp(path) if path.suffix.lower() == ".scp" else _ark(path))
    except FileNotFoundError as error:
        raise DataError(f"embedding file {error.filename} does not exist") from None
    except MemoryError as error:
        raise DataError(f"{path} holds more than there is memory for") from error
    except (OSError, ValueError) as error:  # ValueError: text that is not UTF-8, a null character in a path
        raise DataError(f"{path} cannot be read ({said(error)})") from error
    if not items:
        raise DataError(f"{path} holds no vectors")
    lengths = {len(vector) for _, vector in items}
    if len(lengths) > 1:
        raise DataError(f"{path} holds vectors of different lengths: {', '.join(map(str, sorted(lengths)[:5]))}")
    return [key for key, _ in items], np.stack([vector for _, vector in items])


def _ark(path: Path) -> Iterator[tuple[str, _Vector]]:
    with open_regular(path) as stream:
        while True:
            key = _key(stream, path)
            if key is None:
                return
            yield key, _value(stream, f"{path}, {key!r}")


def _scp(path: Path) -> Iterator[tuple[str, _Vector]]:
    open_name, stream = "", None
    with contextlib.ExitStack() as stack:
        for number, line in enumerate(read_text(path).splitlines(), start=1):
            if not line.strip():
                continue
            key, _, target = line.strip().partition(" ")
            name, _, offset = target.strip().rpartition(":")
            if not name or _OFFSET.fullmatch(offset) is None:
                found = line.strip()[:80]
                raise DataError(f"{path}, line {number}: found {found!r}, expected 'KEY FILE:OFFSET' (no pipes, no ranges)")
            if name != open_name:
                stack.close()
                file = Path(name)
                # A pipe or device would be waited for, or never end.
                stream, open_name = stack.enter_context(open_regular(file if file.exists() else path.parent / name)), name
            assert stream is not None
            stream.seek(int(offset))
            yield key, _value(stream, f"{path}, line {number}")


def _key(stream: BinaryIO, path: Path) -> str | None:
    """Read up to the space after the key; None at the end of the file."""
    found = bytearray()
    while True:
        byte = stream.read(1)
        if byte in (b"\n", b"\r") and not found:
            continue
        if byte == b" " and found:
            return found.decode("utf-8")
        if not byte and not found.strip():
            return None
        found += byte
        if not byte or byte in b"\n\0" or len(found) > _LONGEST_KEY:
            raise DataError(f"{path} is damaged or no Kaldi archive: no key followed by a space at byte {stream.tell()}")


def _value(stream: BinaryIO, where: str) -> _Vector:
    start = stream.tell()
    if stream.read(2) != b"\0B":
        stream.seek(start)
        line = stream.readline(_LONGEST_LINE)
        if len(line) == _LONGEST_LINE:
            raise DataError(f"{where}: a line of more than {_LONGEST_LINE:,} bytes; expected a vector")
        return _text_vector(line, where)
    kind = _exactly(stream, 3, where)
    if kind not in (b"FV ", b"DV ", b"FM ", b"DM "):
        raise DataError(f"{where}: its type is not read; expected vectors of floats or doubles (FV, DV)")
    width = 4 if kind[:1] == b"F" else 8
    rows = _int32(stream, where) if kind[1:2] == b"M" else 1
    count = _int32(stream, where)
    if rows != 1:
        raise DataError(f"{where}: a matrix of {rows} x {count} is no embedding; expected one vector for each key")
    data = _exactly(stream, width * count, where)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.frombuffer(data, dtype=f"<f{width}").astype(np.float32)


def _text_vector(line: bytes, where: str) -> _Vector:
    # What stands there instead is not told: a list may point into any file.
    words = line.split()
    if len(words) < 3 or words[0] != b"[" or words[-1] != b"]":
        raise DataError(f"{where}: expected '[ numbers ]' on one line or a binary vector")
    try:
        with np.errstate(over="ignore"):
            return np.array([float(word) for word in words[1:-1]]).astype(np.float32)
    except ValueError:
        raise DataError(f"{where}: expected numbers between the brackets") from None


def _int32(stream: BinaryIO, where: str) -> int:
    size, value = struct.unpack("<bi", _exactly(stream, 5, where))
    if size != 4 or not 0 < value <= _MOST_NUMBERS:
        raise DataError(f"{where}: damaged (a length of {value} in {size} bytes)")
    return int(value)


def _exactly(stream: BinaryIO, count: int, where: str) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise DataError(f"{where}: the file is cut off ({len(data)} of {count} bytes); copy it again")
    return data

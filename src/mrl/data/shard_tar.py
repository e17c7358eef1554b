"""Writing one tar file byte for byte the same for the same members, with the place and hash of everything known at once."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path
from types import TracebackType

_BLOCK = tarfile.BLOCKSIZE


class TarWriter:
    """A plain tar file: members of mode 644 without owner and time, so that equal members make equal files.

    Attributes:
        size: bytes written so far.
    """

    def __init__(self, path: Path) -> None:
        self._stream = path.open("wb")
        self._digest = hashlib.sha256()
        self.size = 0

    def __enter__(self) -> TarWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stream.close()

    def add(self, name: str, data: bytes) -> int:
        """Append a member and return the offset of its first byte."""
        header = tarfile.TarInfo(name)
        header.size = len(data)
        self._write(header.tobuf(tarfile.GNU_FORMAT))
        offset = self.size
        self._write(data)
        self._write(bytes(-len(data) % _BLOCK))
        return offset

    def finish(self) -> str:
        """Write the end of the archive and return the SHA-256 of the file."""
        self._write(bytes(finished_bytes(self.size) - self.size))
        self._stream.flush()
        return self._digest.hexdigest()

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._digest.update(data)
        self.size += len(data)


def member_bytes(data: bytes) -> int:
    """Return the bytes that a member takes in a tar file: header, data, padding."""
    return _BLOCK + len(data) + -len(data) % _BLOCK


def finished_bytes(size: int) -> int:
    """Return the size of a tar file with members of ``size`` bytes: two empty blocks end it, and it fills whole records."""
    end = size + 2 * _BLOCK
    return end + -end % tarfile.RECORDSIZE

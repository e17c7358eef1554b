"""Where encoded audio lies: a file of its own, a stretch of bytes in a larger file (a tar shard), or memory."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from mrl.errors import AudioLoadingError, DataError, InputError

# Finding recordings in a folder.


_LIBSNDFILE = (".wav", ".flac", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".aifc", ".au", ".caf", ".sph", ".w64", ".rf64")


_FFMPEG = (".mp3", ".m4a", ".m4b", ".mp4", ".aac", ".webm", ".mkv", ".mka", ".mov", ".avi", ".wma", ".amr", ".3gp")


AUDIO_SUFFIXES: frozenset[str] = frozenset(_LIBSNDFILE + _FFMPEG)
"""Suffixes, in lower case, of the files that count as recordings when a folder is searched."""


def find_audio_files(folder: str | os.PathLike[str]) -> list[Path]:
    """Return all recordings below ``folder``, by suffix in any case, sorted by path; hidden files and folders are left out.

    An empty list means that there are none. Links to folders are followed, but a loop is entered only once.

    Raises:
        DataError: ``folder`` does not exist, is not a folder, or a folder in it cannot be read.
    """
    root = Path(folder)
    if not root.is_dir():
        found = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"{root}: {found}; give a folder that holds recordings")

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror}); make it readable or move it away") from error

    found_files: list[Path] = []
    entered: set[tuple[int, int]] = set()
    for current, subfolders, names in os.walk(root, followlinks=True, onerror=refuse):
        status = os.stat(current)  # noqa: PTH116  (os.walk gives strings)
        if (status.st_dev, status.st_ino) in entered:
            subfolders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        visible = (Path(current, name) for name in names if not name.startswith("."))
        found_files += [file for file in visible if file.suffix.lower() in AUDIO_SUFFIXES]
    return sorted(found_files)


_READ_WHOLE_BYTES = 4 << 20  # up to here one read beats several small ones, above all over a network


@dataclass(frozen=True, order=True, slots=True)
class FileSlice:
    """A recording that is a stretch of bytes of a larger file, such as a member of a tar shard.

    Attributes:
        path: the file that holds it.
        offset: of its first byte.
        length: its bytes.
        name: what messages call it, after the file's name.
        crc32: of its bytes, compared whenever all of them are read (that is, up to 4 MiB); None is not compared.
    """

    path: Path
    offset: int
    length: int
    name: str
    crc32: int | None = None

    def __post_init__(self) -> None:
        if self.offset < 0 or self.length < 0:
            raise InputError(f"{self}: offset {self.offset} and length {self.length} must be 0 or more")

    def __str__(self) -> str:
        return f"{self.path}/{self.name}"

    def read(self) -> bytes:
        """Return its bytes.

        Raises:
            AudioLoadingError: the file is absent, ends too early, or holds other bytes than were written.
        """
        with _telling_os_errors(str(self)), self.path.open("rb", buffering=0) as stream:
            stream.seek(self.offset)
            data = _read_fully(stream, self.length)
            if len(data) < self.length:
                raise _too_short(self, os.fstat(stream.fileno()).st_size)
        if self.crc32 is not None and zlib.crc32(data) != self.crc32:
            raise AudioLoadingError(
                f"{self}: its bytes are not those that were written (CRC-32 {zlib.crc32(data):08x}, expected {self.crc32:08x}); "
                "copy the file again or write it again"
            )
        return data


AudioSource: TypeAlias = str | os.PathLike[str] | FileSlice | bytes
"""What a recording can be read from: a path, a stretch of a file, or the encoded bytes themselves."""


@dataclass(frozen=True)
class Recording:
    """Encoded audio that decoders can open as often as they like.

    Attributes:
        name: what messages call it.
        size: bytes.
    """

    name: str
    size: int
    _place: Path | FileSlice | bytes

    @contextlib.contextmanager
    def stream(self) -> Iterator[BinaryIO]:
        """Yield a seekable stream of its bytes, from the first one on."""
        if isinstance(self._place, bytes):
            yield _BytesStream(self._place)
        elif isinstance(self._place, Path):
            with self._place.open("rb") as stream:
                yield stream
        else:
            with io.BufferedReader(_SliceStream(self._place)) as stream:
                yield stream

    @contextlib.contextmanager
    def for_library(self) -> Iterator[str | BinaryIO]:
        """Yield the path of a file of its own, which libraries read fastest, or else a stream."""
        if isinstance(self._place, Path):
            yield str(self._place)
        else:
            with self.stream() as stream:
                yield stream


def find_recording(source: AudioSource) -> Recording:
    """Look whether the source is there; small slices are read at once.

    Raises:
        AudioLoadingError: it is not there, not a regular file, or a slice that its file does not hold.
    """
    if isinstance(source, bytes):
        return Recording(f"audio in memory ({len(source)} bytes)", len(source), source)
    if isinstance(source, FileSlice):
        if source.length <= _READ_WHOLE_BYTES:
            return Recording(str(source), source.length, source.read())
        with _telling_os_errors(str(source)):
            size = source.path.stat().st_size
        if size < source.offset + source.length:
            raise _too_short(source, size)
        return Recording(str(source), source.length, source)
    path = Path(source)
    with _telling_os_errors(str(path)):
        status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise AudioLoadingError(f"{path}: this is a folder; give a file; find_audio_files lists the recordings in a folder")
    if not stat.S_ISREG(status.st_mode):
        raise AudioLoadingError(f"{path}: this is not a regular file; write the recording to a file first")
    return Recording(str(path), status.st_size, path)


class _BytesStream(io.BytesIO):
    """Bytes as a file that lets libsndfile seek before its start, as it does with damaged files, without an exception."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: len(self.getbuffer())}[whence]
        return super().seek(max(0, start + offset))


class _SliceStream(io.RawIOBase):
    """A stretch of a file as if it were a file of its own."""

    def __init__(self, place: FileSlice) -> None:
        self._place = place
        self._position = 0
        self._file = place.path.open("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._place.length}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self._place.length - self._position))
        self._file.seek(self._place.offset + self._position)
        found: int = self._file.readinto(memoryview(buffer)[:wanted]) or 0
        self._position += found
        return found

    def close(self) -> None:
        self._file.close()
        super().close()


def _read_fully(stream: io.FileIO, count: int) -> bytes:
    """Read ``count`` bytes, or fewer at the end of the file; a single read may return less, over a network."""
    data = stream.read(count) or b""
    while len(data) < count and (more := stream.read(count - len(data))):
        data += more
    return data


def _too_short(place: FileSlice, size: int) -> AudioLoadingError:
    return AudioLoadingError(
        f"{place}: the file is cut off: it has {size} bytes, this recording reaches to {place.offset + place.length}; "
        "copy it again or write it again"
    )


@contextlib.contextmanager
def _telling_os_errors(name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise AudioLoadingError(f"{name}: there is no such file; check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise AudioLoadingError(
            f"{name}: it cannot be opened ({getattr(error, 'strerror', None) or error}); check the path and its permissions"
        ) from error

"""Lines of a text file, plain or compressed by gzip."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

from mrl.errors import DataError

_GZIP_MAGIC = b"\x1f\x8b"


def text_lines(file: Path, what: str) -> Iterator[bytes]:
    """Yield the lines of ``file`` with their ends; gzip is recognised by content, not by name.

    Raises:
        DataError: the file is missing, unreadable or damaged; ``what`` (such as "trial list") says what it was to be.
    """
    try:
        with file.open("rb") as raw:
            compressed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            if compressed:
                with gzip.GzipFile(fileobj=raw) as stream:
                    yield from stream
            else:
                yield from raw
    except FileNotFoundError:
        raise DataError(f"{what} {file} does not exist") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{what} {file} cannot be read: {error}") from error

"""Writing files so that nothing already written is ever lost: to a temporary name first, then renamed into place."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_CHUNK_BYTES = 1 << 20
_TEMPORARY = re.compile(r"\.(?P<stem>.+)\.[0-9a-f]{8}\.tmp(\.[^.]*)?", re.DOTALL)
_DAY_SECONDS = 86400.0


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str], *, private: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success flush it to disk and rename it to ``path``, on failure remove it.

    The temporary file keeps the suffix of ``path``, because several writers (matplotlib, NumPy) choose their format by it. It is
    there, empty and locked, when the block begins, so that a file which a killed process left is known by its lock's absence: the
    next writer into the folder removes it (:func:`remove_leftovers`).

    Args:
        path: the file.
        private: readable by its owner only, from its first byte on.

    Raises:
        OSError: the folder cannot be written to or the disk is full (``path`` is named); ``path`` is then as it was before.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.tmp{target.suffix}")
    with _naming(target, temporary):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent)
        held = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
        try:
            _lock(held)
            yield temporary
            descriptor = os.open(temporary, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.replace(target)
        finally:
            os.close(held)
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path, stem: str | None = None) -> list[Path]:
    """Remove temporary files that killed writers left in a folder, and return them; those of living writers stay.

    Args:
        folder: where they lie; one that is not there holds none.
        stem: only those of the file with this name (without its suffix).
    """
    removed = []
    try:
        temporary = [Path(entry.path) for entry in os.scandir(folder) if _TEMPORARY.fullmatch(entry.name)]
    except OSError:
        return []
    for path in temporary:
        named = _TEMPORARY.fullmatch(path.name)
        if (stem is None or (named is not None and named["stem"] == stem)) and _is_abandoned(path):
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path)
    return removed


def _is_abandoned(path: Path) -> bool:
    if fcntl is None:  # without locks a writer that lives cannot be told from one that was killed; a day is enough for any
        with contextlib.suppress(OSError):
            return time.time() - path.stat().st_mtime > _DAY_SECONDS
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode) and _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock an open file for as long as it is open; return whether nobody else has."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _naming(target: Path, temporary: Path) -> Iterator[None]:
    """Let an error of the system about the temporary file name the one that it becomes; that of a full disk names none."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, os.fspath(temporary), temporary):
            raise
        raise OSError(error.errno, error.strerror or os.strerror(error.errno), os.fspath(target)) from error


def write_safetensors(path: str | os.PathLike[str], tensors: Mapping[str, Any], notes: Mapping[str, str] | None = None) -> None:
    """Write tensors (of torch, or all of NumPy), and texts in the header, atomically.

    Raises:
        OSError: the folder cannot be written to or the disk is full; ``path`` is named, and as it was before.
    """
    from safetensors import SafetensorError

    of_numpy = any(type(tensor).__module__ == "numpy" for tensor in tensors.values())
    library: Any = importlib.import_module(f"safetensors.{'numpy' if of_numpy else 'torch'}")
    with atomic_path(path) as temporary:
        try:
            library.save_file(dict(tensors), temporary, metadata=None if notes is None else dict(notes))
        except SafetensorError as error:
            # The library tells what the system said in words only.
            number = re.search(r"os error (\d+)", str(error))
            code = int(number[1]) if number else errno.EIO
            raise OSError(code, os.strerror(code)) from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write JSON atomically, indented, non-finite numbers refused (they are not JSON)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()

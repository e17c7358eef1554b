"""Folders that are written whole: to a temporary name first, then put in the place of the old one.

On Linux two folders change places in one step, so that there is no moment without a valid one. Where the file system cannot do
that (network disks, other systems), the old one is renamed away and the new one in; a kill between the two leaves the old one
under a hidden name, from where :func:`recover_folders` brings it back.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from mrl.errors import TrainingError

_TEMPORARY, _OLD = ".tmp", ".old"
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}(?P<kind>\.tmp|\.old)")
_CURRENT_FOLDER = -100  # AT_FDCWD: paths are taken from the working directory
_EXCHANGE = 2  # RENAME_EXCHANGE


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside ``target``; on success it takes the place of ``target``, on failure it is removed.

    Raises:
        OSError: the disk is full or cannot be written to; ``target`` is then as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(4)
    temporary = target.with_name(f".{target.name}.{token}{_TEMPORARY}")
    temporary.mkdir()
    try:
        yield temporary
        for path in [*temporary.rglob("*"), temporary]:
            _flush(path)
        if not target.exists():
            temporary.rename(target)
        elif not exchange_folders(temporary, target):
            old = target.with_name(f".{target.name}.{token}{_OLD}")
            target.rename(old)
            try:
                temporary.rename(target)
            except OSError:
                old.rename(target)
                raise
            shutil.rmtree(old)
        _flush(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # what was not finished, or what was replaced


def exchange_folders(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; return whether system and file system can do that (else nothing is done)."""
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    done: int = rename(_CURRENT_FOLDER, os.fsencode(one), _CURRENT_FOLDER, os.fsencode(other), _EXCHANGE)
    return done == 0


def recover_folders(parent: Path) -> list[Path]:
    """Bring back the folders in ``parent`` of which a kill fell between the two renames, and remove what was left half written.

    No other process may be writing in ``parent`` at this time.

    Returns:
        The folders that were brought back.
    """
    recovered = []
    leftovers = [(path, _LEFTOVER.fullmatch(path.name)) for path in parent.glob(".*") if path.is_dir()]
    for path, found in leftovers:
        if found is None:
            continue
        target = parent / found["name"]
        if found["kind"] == _OLD and not target.exists():
            path.rename(target)
            recovered.append(target)
        else:
            shutil.rmtree(path)
    return recovered


def replace_folder(target: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary folder, which then takes the place of ``target``.

    Raises:
        TrainingError: it cannot be written; ``target`` is as it was.
    """
    try:
        with atomic_folder(target) as temporary:
            write(temporary)
    except OSError as error:
        raise TrainingError(f"{target} cannot be written ({error}); free some space and go on with --resume auto") from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

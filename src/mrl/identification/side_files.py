"""Where the side files of a voice store lie, and getting rid of them.

A side file holds the voices of a store laid out for search. It is derived from the store and can be deleted at any time; a
process that searches it keeps its memory map. Writing and removing are done under one lock, so that a file that is being made
from an old state of the store never survives a removal.
"""

from __future__ import annotations

from pathlib import Path

from filelock import BaseFileLock, FileLock


def side_path(store: Path, dim: int) -> Path:
    """Return where the side file of a prefix length lies."""
    return store.with_name(f"{store.name}.search-{dim}")


def unfinished_path(store: Path, dim: int) -> Path:
    """Return where a side file is written before it gets its name; one that is there without the lock held is a leftover."""
    return store.with_name(f"{store.name}.search-{dim}.unfinished")


def side_lock(store: Path) -> BaseFileLock:
    """Return the lock to be held while side files are written or removed."""
    return FileLock(store.with_name(f"{store.name}.search-lock"))


def side_files(store: Path) -> list[Path]:
    """Return the side files of a store that there are, finished or not."""
    prefix = f"{store.name}.search-"
    return sorted(file for file in store.parent.iterdir() if file.name.startswith(prefix) and file.name != f"{prefix}lock")


def remove_side_files(store: Path) -> None:
    """Delete all side files of a store.

    Raises:
        OSError: one cannot be deleted.
    """
    with side_lock(store):
        for file in side_files(store):
            file.unlink(missing_ok=True)

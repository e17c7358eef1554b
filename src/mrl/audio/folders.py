"""Finding recordings in a folder."""

from __future__ import annotations

import os
from pathlib import Path

from mrl.errors import DataError

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

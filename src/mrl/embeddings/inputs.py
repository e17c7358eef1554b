"""Which recordings the inputs of a command stand for."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from mrl.audio import find_audio_files
from mrl.bounded import read_text, said
from mrl.errors import DataError


def collect_recordings(inputs: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the recordings that are meant, each once, in the order named.

    A folder stands for all recordings below it (sorted), a ``.txt`` file for the paths that it lists, one per line (absolute,
    or relative to the working directory; blank lines are skipped), anything else for itself. A file that does not exist is
    kept: it is for the reader to report and count.

    Raises:
        DataError: a folder holds no recordings, or a list cannot be read or is empty.
    """
    named: dict[Path, None] = {}
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            recordings = find_audio_files(path)
            if not recordings:
                raise DataError(f"{path}: no recordings in this folder or below it")
        elif path.suffix.lower() == ".txt":
            recordings = _read_list(path)
        else:
            recordings = [path]
        named.update(dict.fromkeys(recordings))
    return list(named)


def _read_list(path: Path) -> list[Path]:
    try:
        lines = read_text(path).splitlines()
    except OSError as error:
        raise DataError(f"list of recordings {path} cannot be read: {said(error)}") from error
    recordings = [Path(line.strip()) for line in lines if line.strip()]
    if not recordings:
        raise DataError(f"list of recordings {path} is empty; expected one path per line")
    return recordings

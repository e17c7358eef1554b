"""Embeddings kept in a folder, so that the next extraction, or this one after an interruption, need not compute them again.

Layout: ``KEY/about.json`` says which network, under which settings, the embeddings of this subfolder belong to; KEY is the hash
of that. Beside it lie ``part-*.npz`` with ``paths``, ``states`` (size in bytes and time of change in ns of every file) and the
matrices ``output0``, ``output1``... Every part appears whole or not at all, and a file that has changed since counts as new.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.bounded import read_npz
from mrl.errors import DataError
from mrl.files import atomic_path, write_json

Matrices = tuple[npt.NDArray[np.float32], ...]

_FORMAT = 1
_LOG = logging.getLogger(__name__)
_DAMAGE = (DataError, ValueError, TypeError, FileNotFoundError)
_MOST_OUTPUTS = 8


class EmbeddingCache:
    """A folder of embeddings by network, settings and recording; several processes may use it at once."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise DataError(f"cache {self.folder} is a file; give a folder, which is made if absent")

    def shelf(self, about: Mapping[str, Any]) -> Shelf:
        """Open the part of the cache for what ``about`` (JSON values) describes.

        Raises:
            OSError: the folder cannot be written to or the disk is full.
        """
        described = {"format": _FORMAT, **about}
        text = json.dumps(described, sort_keys=True, ensure_ascii=False, allow_nan=False)
        place = self.folder / hashlib.sha256(text.encode()).hexdigest()[:24]
        if not (place / "about.json").is_file():
            write_json(place / "about.json", described)
        return Shelf(place)


class Shelf:
    """The embeddings of one network under the same settings."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[Path, tuple[str, int, int] | None] = {}

    def find(self, paths: Sequence[Path]) -> dict[int, tuple[npt.NDArray[np.float32], ...]]:
        """Return ``{position in paths: one row for each output}`` for the recordings that are here and unchanged."""
        self._seen |= {path: _state(path) for path in paths}
        wanted = {state: index for index, path in enumerate(paths) if (state := self._seen[path]) is not None}
        found: dict[int, tuple[npt.NDArray[np.float32], ...]] = {}
        for part in sorted(self._folder.glob("part-*.npz")):
            try:
                kinds = {"paths": "U", "states": "i", **{f"output{number}": "f" for number in range(_MOST_OUTPUTS)}}
                arrays = read_npz(part, kinds, optional=[name for name in kinds if name.startswith("output")])
                names, states = arrays.pop("paths"), arrays.pop("states")
                outputs = list(arrays.values())
                rows = zip(names, states, *outputs, strict=True)
                for name, (size, changed), *values in rows:
                    index = wanted.get((str(name), int(size), int(changed)))
                    if index is not None:
                        found[index] = tuple(values)
            except _DAMAGE as error:
                said = " ".join(str(error).split())[:120]
                _LOG.warning("%s is damaged (%s); its embeddings are computed again", part, said)
        return found

    def add(self, paths: Sequence[Path], matrices: Matrices) -> None:
        """Keep the rows of ``matrices`` for ``paths``; what has vanished or been replaced since it was looked for is left out.

        Raises:
            OSError: the folder cannot be written to or the disk is full; what was there is kept.
        """
        states = [state if (state := _state(path)) == self._seen.get(path, state) else None for path in paths]
        kept = [index for index, state in enumerate(states) if state is not None]
        known = [state for state in states if state is not None]
        if not known:
            return
        arrays: dict[str, Any] = {f"output{number}": matrix[kept] for number, matrix in enumerate(matrices)}
        with atomic_path(self._folder / f"part-{secrets.token_hex(8)}.npz") as temporary, temporary.open("wb") as stream:
            np.savez(
                stream,
                paths=np.array([name for name, _, _ in known], dtype=np.str_),
                states=np.array([(size, changed) for _, size, changed in known], dtype=np.int64),
                **arrays,
            )


def _state(path: Path) -> tuple[str, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None  # the reader of the recording says what is wrong with it
    return str(path.absolute()), status.st_size, status.st_mtime_ns

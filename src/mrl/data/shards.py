"""Tar shards with an index: any utterance of a million is read by one seek, and damage is noticed.

A folder of shards holds

- ``shard-00000.tar`` and on: plain tar files in the layout of WebDataset: for each utterance ``KEY.flac`` (or wav, m4a, ...) and
  ``KEY.json`` with the same key, a number of nine digits;
- ``index.npy``: a structured NumPy array, one row per utterance in the order of the keys (:data:`ROW`), to be memory-mapped;
- ``names.json``: the names of speakers and sessions, which rows refer to by number;
- ``shards.json``: written last: sizes and SHA-256 hashes of all the other files.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.audio import FileSlice
from mrl.bounded import brief, read_json, read_json_object, read_npy, record
from mrl.data.utterances import Corpus, Utterance
from mrl.errors import DataError
from mrl.files import atomic_path, sha256_of, write_json
from mrl.progress import progress_bar

FORMAT = 1

DESCRIPTION, ROWS, NAMES = "shards.json", "index.npy", "names.json"

ROW = np.dtype(
    [
        ("shard", "<u4"),  # number of the tar file
        ("offset", "<u8"),  # of the audio's first byte in it
        ("length", "<u8"),  # bytes of the audio
        ("crc32", "<u4"),  # of those bytes
        ("speaker", "<u4"),  # number of the name
        ("session", "<i4"),  # number of the name, -1 for none
        ("seconds", "<f8"),
        ("suffix", "S8"),  # of the recording: .flac, .m4a
    ]
)
"""What the index knows of each utterance."""

_BLOCK_ROWS = 10_000

_REMEDY = "copy it again, or write the shards again into an empty folder (mrl data shard)"


@dataclasses.dataclass(frozen=True)
class Shard:
    """One tar file: its name, its size in bytes, the SHA-256 of the whole, and how many utterances it holds."""

    name: str
    size: int
    sha256: str
    utterances: int


@dataclasses.dataclass(frozen=True)
class _Names:
    """What ``names.json`` holds."""

    speakers: list[str]
    sessions: list[str]


_NAMES_BYTES = 1 << 30


class ShardIndex:
    """A folder of shards, opened by :meth:`load`.

    Attributes:
        folder: holds the shards.
        shards: the tar files in order.
        speakers, sessions: names.
        rows: (utterances,) of dtype :data:`ROW`.
    """

    def __init__(
        self,
        folder: Path,
        shards: Sequence[Shard],
        speakers: Sequence[str],
        sessions: Sequence[str],
        rows: npt.NDArray[np.void],
    ) -> None:
        self.folder = folder
        self.shards = tuple(shards)
        self.speakers = tuple(speakers)
        self.sessions = tuple(sessions)
        self.rows = rows
        self._paths = tuple(folder / shard.name for shard in self.shards)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, memory_map: bool = True) -> ShardIndex:
        """Open a finished folder of shards and compare the size of every file.

        Args:
            folder: what ``mrl data shard`` wrote.
            memory_map: leave the rows on disk until they are asked for.

        Raises:
            DataError: there are no finished shards, or a file is missing, cut off or another than was written.
        """
        place = Path(folder)
        try:
            described = read_json_object(place / DESCRIPTION, advice=_REMEDY)
            if described.get("format") != FORMAT:
                version = brief(described.get("format"))
                raise DataError(f"{place / DESCRIPTION} is of format {version}, this version reads format {FORMAT}")
            listed = described.get("shards")
            shards = (
                [record(Shard, each, str(place / DESCRIPTION), advice=_REMEDY) for each in listed]
                if isinstance(listed, list)
                else []
            )
            hashes = {name: str(described.get(name)) for name in (ROWS, NAMES)}
            if not all(Path(shard.name).name == shard.name and shard.name.isprintable() for shard in shards):
                raise DataError(f"{place / DESCRIPTION} names shards outside its folder; {_REMEDY}")
        except FileNotFoundError as error:
            raise DataError(
                f"{place} holds unfinished shards; run the same mrl data shard again to resume"
                if holds_shards(place)
                else f"{place} holds no shards ({DESCRIPTION} is missing); write them with mrl data shard"
            ) from error
        for shard in shards:
            _check_size(place / shard.name, shard.size)
        for name, expected in hashes.items():
            _check_hash(place / name, expected)
        names = record(
            _Names, read_json(place / NAMES, advice=_REMEDY, max_bytes=_NAMES_BYTES), str(place / NAMES), advice=_REMEDY
        )
        rows = read_npy(place / ROWS, memory_map=memory_map, advice=_REMEDY)
        if rows.dtype != ROW or rows.shape != (sum(shard.utterances for shard in shards),):
            raise DataError(f"{place / ROWS} does not belong to {DESCRIPTION}; {_REMEDY}")
        if len(rows) and (
            rows["shard"].max() >= len(shards)
            or rows["speaker"].max() >= len(names.speakers)
            or not -1 <= rows["session"].min() <= rows["session"].max() < len(names.sessions)
        ):
            raise DataError(f"{place / ROWS} refers to shards, speakers or sessions that are not there; {_REMEDY}")
        return cls(place, shards, names.speakers, names.sessions, rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_speakers(self) -> int:
        """Speakers with an utterance in the shards; those of whom nothing could be read have a name only."""
        return len(np.unique(self.rows["speaker"]))

    def utterance(self, number: int) -> Utterance:
        """Return the utterance with this key, which can be read by one seek."""
        return self._utterance(number, self.rows[number].item())

    def _utterance(self, number: int, row: tuple[Any, ...]) -> Utterance:
        shard, offset, length, crc32, speaker, session, seconds, suffix = row
        try:
            name = f"{key_of(number)}{suffix.decode()}"
        except UnicodeDecodeError as error:
            raise DataError(f"{self.folder / ROWS}: the extension of utterance {number} is not text; {_REMEDY}") from error
        path = self._paths[shard]
        return Utterance(
            path / name,
            self.speakers[speaker],
            seconds=seconds,
            session=None if session < 0 else self.sessions[session],
            slice=FileSlice(path, offset, length, name, crc32),
        )

    def corpus(self) -> Corpus:
        """Return all utterances in the order of the shards."""
        return Corpus.in_order(
            self._utterance(first + step, row)
            for first in range(0, len(self), _BLOCK_ROWS)  # in blocks, which is several times as fast as row by row
            for step, row in enumerate(self.rows[first : first + _BLOCK_ROWS].tolist())
        )

    def verify(self, *, progress: bool = True) -> None:
        """Read every shard and compare its SHA-256.

        Raises:
            DataError: a shard is not as it was written.
        """
        total = sum(shard.size for shard in self.shards)
        with progress_bar("verifying", round(total / 1e6), unit="MB", enabled=progress) as advance:
            for path, shard in zip(self._paths, self.shards, strict=True):
                _check_hash(path, shard.sha256)
                advance(round(shard.size / 1e6))


def holds_shards(folder: str | os.PathLike[str]) -> bool:
    """Return whether the folder holds shards, finished or not."""
    return (Path(folder) / DESCRIPTION).is_file() or any(Path(folder).glob("shard-*.tar"))


def read_shards(folder: str | os.PathLike[str]) -> Corpus:
    """Return the corpus in a folder of shards, in the order of the shards.

    Raises:
        DataError: as :meth:`ShardIndex.load`.
    """
    return ShardIndex.load(folder).corpus()


def key_of(number: int) -> str:
    """Return the key of an utterance: nine digits, no dot, because WebDataset ends a key at the first one."""
    return f"{number:09d}"


def shard_name(number: int) -> str:
    """Return the name of a shard."""
    return f"shard-{number:05d}.tar"


def write_index(
    folder: Path,
    shards: Sequence[Shard],
    rows: npt.NDArray[np.void],
    *,
    speakers: Sequence[str],
    sessions: Sequence[str],
    facts: Mapping[str, Any],
) -> ShardIndex:
    """Write the index of finished shards; ``shards.json``, with further ``facts``, comes last and makes them readable."""
    with atomic_path(folder / ROWS) as temporary:
        np.save(temporary, rows)
    write_json(folder / NAMES, {"speakers": list(speakers), "sessions": list(sessions)})
    description = {
        "format": FORMAT,
        **facts,
        "utterances": len(rows),
        ROWS: sha256_of(folder / ROWS),
        NAMES: sha256_of(folder / NAMES),
        "shards": [dataclasses.asdict(shard) for shard in shards],
    }
    write_json(folder / DESCRIPTION, description)
    return ShardIndex.load(folder)


def _check_size(path: Path, expected: int) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} is missing or cannot be read ({error.strerror}); {_REMEDY}") from error
    if size != expected:
        what = "it is cut off" if size < expected else "it was changed"
        raise DataError(f"{path} has {size} bytes, its index says {expected}: {what}; {_REMEDY}")


def _check_hash(path: Path, expected: str) -> None:
    try:
        digest = sha256_of(path)
    except OSError as error:
        raise DataError(f"{path} is missing or cannot be read ({error.strerror}); {_REMEDY}") from error
    if digest != expected:
        raise DataError(f"{path} was changed: its SHA-256 is {digest[:12]}…, its index says {expected[:12]}…; {_REMEDY}")

"""Utterances, and many of them as columns of numbers and a block of text: about 100 bytes each, which worker processes share.

A million utterances as Python objects take a gigabyte and are copied into every worker process, by pickling (start methods
``spawn`` and ``forkserver``) or by the counting of references (``fork``). Columns are mapped from files by every process.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from mrl.audio import FileSlice
from mrl.bounded import brief
from mrl.errors import DataError


@dataclasses.dataclass(frozen=True, order=True, slots=True)
class Utterance:
    """One stretch of speech by one speaker in one file.

    Attributes:
        path: the recording; of one inside a shard, the shard's path with the recording's name behind it.
        speaker: name of the speaker, unique over the whole corpus.
        start: where the stretch begins in the file, seconds.
        seconds: its length in seconds; None means to the end of the file (the header is asked when it matters).
        session: name of the recording session, where known.
        speed: playback speed; a copy at 0.9 or 1.1 has another pitch and vocal-tract length, hence counts as another speaker.
        slice: where in the shard its bytes are; None for a file of its own.
        corpus: name of the corpus, where a manifest gives one; for mixing corpora.
    """

    path: Path
    speaker: str
    start: float = 0.0
    seconds: float | None = None
    session: str | None = None
    speed: float = 1.0
    slice: FileSlice | None = dataclasses.field(default=None, compare=False)
    corpus: str | None = dataclasses.field(default=None, compare=False)

    @property
    def source(self) -> Path | FileSlice:
        """What :func:`mrl.audio.load_audio` reads it from."""
        return self.path if self.slice is None else self.slice

    @property
    def file(self) -> Path:
        """The file that holds it: the recording's own, or the shard."""
        return self.path if self.slice is None else self.slice.path


_NONE = -1  # of an optional name or number
_NAMED = tuple(field.name for field in dataclasses.fields(Utterance) if field.type == "str | None")  # such as the session
_ROW = np.dtype(
    [
        ("folder", "<u4"),
        ("name_start", "<u8"),  # the file's name in the block of text
        ("name_length", "<u2"),
        ("speaker", "<u4"),
        ("start", "<f8"),
        ("seconds", "<f8"),  # NaN where not known
        ("speed", "<f8"),
        *((name, "<i4") for name in _NAMED),
        ("slice_file", "<i4"),
        ("slice_offset", "<u8"),
        ("slice_length", "<u8"),
        ("slice_crc32", "<i8"),
        ("slice_name_start", "<u8"),
        ("slice_name_length", "<u2"),
    ]
)
_CHUNK_ROWS = 65536


def _bytes_of(text: str) -> bytes:
    """Return a text, which may be a file name that is not UTF-8, as bytes.

    Raises:
        DataError: it is neither, as only JSON can say (half of a surrogate pair).
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise DataError(f"{brief(text)} is not valid Unicode; rename it") from error


class _Texts:
    """Different strings, numbered in the order in which they came."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def number(self, text: str | None) -> int:
        return _NONE if text is None else self.numbers.setdefault(text, len(self.numbers))

    def packed(self) -> dict[str, npt.NDArray[Any]]:
        """Return their bytes, one after the other, and where each ends."""
        encoded = [_bytes_of(text) for text in self.numbers]
        ends = np.cumsum([len(text) for text in encoded], dtype=np.uint64) if encoded else np.zeros(0, dtype=np.uint64)
        return {"bytes": np.frombuffer(b"".join(encoded), dtype=np.uint8), "ends": ends}


class UtteranceColumns(Sequence[Utterance]):
    """A sequence of utterances that makes each when it is asked for.

    Pickling it writes the columns into temporary files once, which go with this object; what is unpickled maps them.

    Args:
        utterances: taken once.
        in_order: keep their order; otherwise they are sorted by speaker, path, start, length and speed.

    Raises:
        DataError: there are no utterances, or the same stretch of the same file is listed twice.
    """

    def __init__(self, utterances: Iterable[Utterance], *, in_order: bool) -> None:
        folders, speakers = _Texts(), _Texts()
        named = {name: _Texts() for name in _NAMED}
        text = bytearray()
        chunks: list[npt.NDArray[Any]] = []
        rows: list[tuple[Any, ...]] = []
        places: dict[int, int] = {}
        ordered, before = True, ("", "", 0.0, 0.0, 0.0)
        for number, utterance in enumerate(utterances):
            path = str(utterance.path)
            place = hash((path, utterance.start, utterance.seconds, utterance.speed))
            key = (utterance.speaker, path, utterance.start, utterance.seconds or 0.0, utterance.speed)
            ordered = ordered and before <= key
            before = key
            if places.setdefault(place, number) != number:
                _refuse_twice(utterance, places[place], chunks, rows, bytes(text), folders, speakers)
            cut = path.rfind(os.sep) + 1
            folder, name = path[:cut], path[cut:]
            start, length = _append(text, name)
            slice_row: tuple[Any, ...] = (_NONE, 0, 0, _NONE, 0, 0)
            if utterance.slice is not None:
                crc32 = _NONE if utterance.slice.crc32 is None else utterance.slice.crc32
                slice_row = (folders.number(str(utterance.slice.path)), utterance.slice.offset, utterance.slice.length, crc32)
                slice_row += (start, length) if utterance.slice.name == name else _append(text, utterance.slice.name)
            rows.append(
                (
                    folders.number(folder),
                    start,
                    length,
                    speakers.number(utterance.speaker),
                    utterance.start,
                    math.nan if utterance.seconds is None else utterance.seconds,
                    utterance.speed,
                    *[texts.number(getattr(utterance, field)) for field, texts in named.items()],
                    *slice_row,
                )
            )
            if len(rows) == _CHUNK_ROWS:
                chunks.append(np.array(rows, dtype=_ROW))
                rows = []
        chunks.append(np.array(rows, dtype=_ROW))
        table = np.concatenate(chunks)
        if not len(table):
            raise DataError("the corpus has no utterances")
        del places, chunks, rows
        # speakers are numbered in sorted order
        names = sorted(speakers.numbers)
        renumbered = np.empty(len(names), dtype=np.uint32)
        renumbered[[speakers.numbers[name] for name in names]] = np.arange(len(names), dtype=np.uint32)
        table["speaker"] = renumbered[table["speaker"]]
        speakers.numbers = {name: number for number, name in enumerate(names)}
        self._arrays: dict[str, npt.NDArray[Any]] = {"rows": table, "text": np.frombuffer(bytes(text), dtype=np.uint8)}
        for kind, texts in {"folder": folders, "speaker": speakers, **named}.items():
            self._arrays |= {f"{kind}.{part}": array for part, array in texts.packed().items()}
        self._shared: Path | None = None
        if not (in_order or ordered):
            self._sort()

    def __len__(self) -> int:
        return len(self._arrays["rows"])

    @overload
    def __getitem__(self, index: int) -> Utterance: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Utterance, ...]: ...

    def __getitem__(self, index: int | slice) -> Utterance | tuple[Utterance, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        row = self._arrays["rows"][index]
        path = Path(self._text_of("folder", row["folder"]) + self._name(row["name_start"], row["name_length"]))
        seconds = float(row["seconds"])
        return Utterance(
            path=path,
            speaker=self._text_of("speaker", row["speaker"]),
            start=float(row["start"]),
            seconds=None if math.isnan(seconds) else seconds,
            speed=float(row["speed"]),
            slice=self._slice(row),
            **{name: None if row[name] == _NONE else self._text_of(name, row[name]) for name in _NAMED},
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return NotImplemented if not isinstance(other, Sequence) else False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    # --- without making utterances

    @property
    def has_slices(self) -> bool:
        """Whether any utterance is in a shard."""
        return bool((self._arrays["rows"]["slice_file"] != _NONE).any())

    @property
    def labels(self) -> npt.NDArray[np.uint32]:
        """The number of each utterance's speaker."""
        labels: npt.NDArray[np.uint32] = self._arrays["rows"]["speaker"]
        return labels

    @property
    def speakers(self) -> tuple[str, ...]:
        """Names of the speakers, sorted."""
        return tuple(self._text_of("speaker", number) for number in range(len(self._arrays["speaker.ends"])))

    def paths(self) -> Iterator[str]:
        """Yield the path of each utterance as text."""
        folders = [self._text_of("folder", number) for number in range(len(self._arrays["folder.ends"]))]
        text = self._arrays["text"].tobytes()
        for rows in self._chunks():
            for folder, start, length in rows[["folder", "name_start", "name_length"]].tolist():
                yield folders[folder] + text[start : start + length].decode("utf-8", "surrogateescape")

    def stretches(self) -> Iterator[tuple[int, float, float | None, float]]:
        """Yield speaker number, start, seconds and speed of each utterance."""
        for rows in self._chunks():
            for speaker, start, seconds, speed in rows[["speaker", "start", "seconds", "speed"]].tolist():
                yield speaker, start, None if math.isnan(seconds) else seconds, speed

    def shards(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], list[str]] | None:
        """Return the shard of each utterance, its offset there, and the shards' paths; None if some are files of their own."""
        rows = self._arrays["rows"]
        if (rows["slice_file"] == _NONE).any():
            return None
        files, numbers = np.unique(rows["slice_file"], return_inverse=True)
        return numbers, rows["slice_offset"].astype(np.int64), [self._text_of("folder", number) for number in files]

    def _chunks(self) -> Iterator[npt.NDArray[Any]]:
        rows = self._arrays["rows"]
        return (rows[first : first + _CHUNK_ROWS] for first in range(0, len(rows), _CHUNK_ROWS))

    def _sort(self) -> None:
        keys = [(stretch[0], path, stretch[1], stretch[2] or 0.0, stretch[3]) for path, stretch in self._described()]
        self._arrays["rows"] = self._arrays["rows"][sorted(range(len(keys)), key=keys.__getitem__)]

    def _described(self) -> Iterator[tuple[str, tuple[int, float, float | None, float]]]:
        return zip(self.paths(), self.stretches(), strict=True)

    def _text_of(self, kind: str, number: int) -> str:
        ends = self._arrays[f"{kind}.ends"]
        first = int(ends[number - 1]) if number else 0
        return bytes(self._arrays[f"{kind}.bytes"][first : int(ends[number])]).decode("utf-8", "surrogateescape")

    def _name(self, start: int, length: int) -> str:
        return bytes(self._arrays["text"][int(start) : int(start) + int(length)]).decode("utf-8", "surrogateescape")

    def _slice(self, row: Any) -> FileSlice | None:
        if row["slice_file"] == _NONE:
            return None
        return FileSlice(
            Path(self._text_of("folder", row["slice_file"])),
            int(row["slice_offset"]),
            int(row["slice_length"]),
            self._name(row["slice_name_start"], row["slice_name_length"]),
            None if row["slice_crc32"] == _NONE else int(row["slice_crc32"]),
        )

    # --- sharing

    def __getstate__(self) -> dict[str, Any]:
        if self._shared is None:
            self._shared = Path(tempfile.mkdtemp(prefix="mrl-corpus-"))
            weakref.finalize(self, _remove, self._shared, os.getpid())
            for number, array in enumerate(self._arrays.values()):
                np.save(self._shared / f"{number}.npy", array)
            self._map()
        return {"folder": str(self._shared), "names": list(self._arrays)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._shared = Path(state["folder"])
        self._arrays = dict.fromkeys(state["names"], np.zeros(0))
        self._map()

    def _map(self) -> None:
        assert self._shared is not None
        for number, name in enumerate(self._arrays):
            path = self._shared / f"{number}.npy"
            array = np.load(path, allow_pickle=False, mmap_mode="r" if path.stat().st_size > _SMALL_FILE_BYTES else None)
            self._arrays[name] = np.asarray(array)


_SMALL_FILE_BYTES = 256  # an array without elements cannot be mapped


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # not a process that was forked
        shutil.rmtree(folder, ignore_errors=True)


def _append(text: bytearray, name: str) -> tuple[int, int]:
    encoded = _bytes_of(name)
    text += encoded
    return len(text) - len(encoded), len(encoded)


def _refuse_twice(
    utterance: Utterance,
    earlier: int,
    chunks: Sequence[npt.NDArray[Any]],
    rows: Sequence[tuple[Any, ...]],
    text: bytes,
    folders: _Texts,
    speakers: _Texts,
) -> None:
    """Raise a DataError if ``one`` is the same stretch as an earlier utterance (the same hash is not enough)."""
    chunk, place = divmod(earlier, _CHUNK_ROWS)
    row = chunks[chunk][place].tolist() if chunk < len(chunks) else rows[place]
    folder, name_start, name_length, speaker, start, seconds, speed = row[:7]
    path = list(folders.numbers)[folder] + text[name_start : name_start + name_length].decode("utf-8", "surrogateescape")
    same_length = math.isnan(seconds) if utterance.seconds is None else seconds == utterance.seconds
    if path == str(utterance.path) and (start, speed) == (utterance.start, utterance.speed) and same_length:
        name = list(speakers.numbers)[speaker]
        raise DataError(
            f"{utterance.path} is listed twice (speakers {name!r} and {utterance.speaker!r}, start {utterance.start} s); "
            "list each stretch once"
        )


class Labels(Sequence[int]):
    """Class indices of utterances, four bytes each.

    Args:
        utterances: whose speakers' numbers they are.
    """

    def __init__(self, utterances: UtteranceColumns) -> None:
        self._utterances = utterances

    def __len__(self) -> int:
        return len(self._utterances)

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[int, ...]: ...

    def __getitem__(self, index: int | slice) -> int | tuple[int, ...]:
        labels = self._utterances.labels[index]
        return tuple(labels.tolist()) if isinstance(index, slice) else int(labels)

    def __iter__(self) -> Iterator[int]:
        return iter(self._utterances.labels.tolist())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self._utterances.labels.astype(np.int64 if dtype is None else dtype)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

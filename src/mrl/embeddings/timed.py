"""Embeddings of short windows along recordings, with their times: for diarisation, search, and a look at who speaks when.

Each window is embedded alone. The networks look at all of their input (attention, and pooling with its context), so frames that
are computed once for all windows would give other embeddings.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.audio import SAMPLE_RATE
from mrl.bounded import reason_of
from mrl.embeddings.embedder import Embedder, Matrix
from mrl.embeddings.extraction import Extraction
from mrl.embeddings.formats import pyarrow_modules
from mrl.embeddings.mapping import FileFailure
from mrl.embeddings.windows import cut
from mrl.errors import AudioLoadingError, InputError
from mrl.files import atomic_path
from mrl.progress import progress_bar

TIMED_SUFFIXES = (".npz", ".parquet")


@dataclass(frozen=True, eq=False)
class TimedEmbeddings:
    """Embeddings of windows, recording by recording.

    Attributes:
        paths: of each window's recording, (windows,).
        starts, ends: of each window in seconds, (windows,) float64.
        matrix: (windows, dim) float32.
        failures: the recordings that could not be used, with the reason.
    """

    paths: tuple[str, ...]
    starts: npt.NDArray[np.float64]
    ends: npt.NDArray[np.float64]
    matrix: Matrix
    failures: tuple[FileFailure, ...]


def embed_windows(
    embedder: Embedder,
    recordings: Sequence[str | os.PathLike[str]],
    how: Extraction | None = None,
    *,
    seconds: float = 1.5,
    hop: float = 0.75,
    dim: int | None = None,
) -> TimedEmbeddings:
    """Embed windows of recordings; the last of each ends with it, and one that is shorter than a window is a window.

    Args:
        embedder: the model.
        recordings: their files.
        how: the settings; nothing is cut out (``vad``), so that times are those of the files.
        seconds: length of a window.
        hop: from one window's start to the next.
        dim: prefix length; all dimensions by default.

    Raises:
        InputError: unusable arguments.
    """
    if not 0 < hop <= seconds:
        raise InputError(f"hop must be above 0 s and no longer than a window; found {hop:g} s and windows of {seconds:g} s")
    chosen, width = dataclasses.replace(how or Extraction(), vad="none"), embedder.check_dim(dim)
    size, step = round(seconds * SAMPLE_RATE), max(1, round(hop * SAMPLE_RATE))
    at_once = max(1, int(chosen.batch_seconds // seconds))
    paths: list[str] = []
    ends: list[int] = []
    lengths: list[int] = []
    rows = [np.empty((0, width), dtype=np.float32)]
    failures: list[FileFailure] = []
    with embedder.ready(), progress_bar("embedding", len(recordings), enabled=chosen.show_progress) as advance:
        for recording in map(Path, recordings):
            try:
                made = _of_recording(embedder, chosen, recording, size, size - step, at_once, width)
            except (AudioLoadingError, InputError) as error:
                failures.append(FileFailure(recording, reason_of(error)))
            else:
                rows += made[0]
                lengths += made[1]
                ends += made[2]
                paths += [str(recording)] * len(made[1])
            advance(1)
    until = np.array(ends, dtype=np.float64) / SAMPLE_RATE
    starts = until - np.array(lengths, dtype=np.float64) / SAMPLE_RATE
    return TimedEmbeddings(tuple(paths), starts, until, np.concatenate(rows), tuple(failures))


def save_timed(path: str | os.PathLike[str], timed: TimedEmbeddings, metadata: dict[str, Any]) -> None:
    """Write ``.npz`` (arrays path, start, end, embedding, metadata) or ``.parquet`` (the same columns), atomically.

    Raises:
        InputError: another suffix.
        MissingDependencyError: ``.parquet`` without pyarrow.
        OSError: the folder cannot be written to or the disk is full; a file that was there is kept.
    """
    check_timed_suffix(path)
    notes = json.dumps(metadata, ensure_ascii=False, allow_nan=False)
    with atomic_path(Path(path)) as temporary:
        if Path(path).suffix.lower() == ".npz":
            with temporary.open("wb") as stream:
                columns: dict[str, Any] = {"path": np.array(timed.paths, dtype=np.str_), "start": timed.starts, "end": timed.ends}
                np.savez(stream, **columns, embedding=timed.matrix, metadata=np.array(notes))
            return
        pyarrow, parquet = pyarrow_modules()
        vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(timed.matrix.ravel()), timed.matrix.shape[1])
        table = {"path": pyarrow.array(timed.paths, pyarrow.string()), "start": timed.starts, "end": timed.ends}
        parquet.write_table(pyarrow.table({**table, "embedding": vectors}).replace_schema_metadata({"mrl": notes}), temporary)


def check_timed_suffix(path: str | os.PathLike[str]) -> None:
    """Raise :class:`InputError` if timed windows cannot be written to ``path``."""
    if Path(path).suffix.lower() not in TIMED_SUFFIXES:
        raise InputError(f"{path}: unsupported extension for timed windows; expected {' or '.join(TIMED_SUFFIXES)}")


def _of_recording(
    embedder: Embedder, how: Extraction, recording: Path, size: int, overlap: int, at_once: int, dim: int
) -> tuple[list[Matrix], list[int], list[int]]:
    """Return embeddings, lengths and ends (samples) of the windows of a recording."""
    parts = cut(how.open(recording).blocks(), size, overlap, size)
    rows: list[Matrix] = []
    lengths: list[int] = []
    added: list[int] = []
    while batch := list(islice(parts, at_once)):
        rows.append(embedder.prefix(embedder.raw([window for window, _ in batch]), dim))
        lengths += [len(window) for window, _ in batch]
        added += [weight for _, weight in batch]
    return rows, lengths, np.cumsum(added).tolist()

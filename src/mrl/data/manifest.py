"""Corpora that come as a list: CSV, TSV, JSONL or Parquet with one utterance per row."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrl.data.utterances import Corpus, Utterance
from mrl.errors import DataError, MissingDependencyError

FilterValue = str | int | float | bool | Sequence[str | int | float | bool]
MANIFEST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


def read_manifest(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    where: Mapping[str, FilterValue] | None = None,
) -> Corpus:
    """Read a manifest with the columns ``path`` and ``speaker``.

    The columns ``start``, ``duration`` (or ``seconds``), ``session`` and ``corpus`` are read where they are there; others are for
    filtering.

    Args:
        path: ``.csv`` or ``.tsv`` with a header line, ``.jsonl`` with one object per line, or ``.parquet``.
        root: folder that relative paths start from; by default the manifest's own folder.
        where: keep only rows whose column equals the value, or one of the values: ``{"part": "train", "corpus": ["a", "b"]}``.
            Values are compared as text.

    A column ``corpus`` becomes part of the speaker's name (``corpus/speaker``), because corpora number their speakers alike.

    Raises:
        DataError: the file is absent, malformed (the line is named), lacks a column, or nothing passes the filter.
        MissingDependencyError: a Parquet file without pyarrow.
    """
    source = Path(path)
    base = Path(root) if root is not None else source.parent
    wanted = {column: _as_texts(value) for column, value in (where or {}).items()}
    utterances: list[Utterance] = []
    seen: dict[str, set[str]] = {column: set() for column in wanted}
    rows = 0
    columns: list[str] = []
    for place, row in manifest_rows(source):
        rows += 1
        columns = list(row)
        for column, values in seen.items():
            if row.get(column) not in (None, ""):
                values.add(str(row[column]))
        if any(str(row.get(column)) not in values for column, values in wanted.items()):
            continue
        for column in ("path", "speaker"):
            if row.get(column) in (None, ""):
                raise DataError(f"{place}: no value in column {column!r} (columns here: {', '.join(columns)})")
        utterances.append(_utterance(row, base, place))
    if not rows:
        raise DataError(f"manifest {source} has no rows")
    if not utterances:
        absent = [column for column, values in seen.items() if not values]
        if absent:
            raise DataError(f"no row of {source} has a value in column {absent[0]!r} (columns here: {', '.join(columns)})")
        found = "; ".join(f"{column}: {', '.join(sorted(values)[:8])}" for column, values in seen.items())
        raise DataError(f"none of the {rows} rows of {source} passes the filter {dict(where or {})} (values found: {found})")
    return Corpus.of(utterances)


def _as_texts(value: FilterValue) -> frozenset[str]:
    if isinstance(value, str | int | float | bool):
        return frozenset([str(value)])
    return frozenset(str(one) for one in value)


def _utterance(row: Mapping[str, Any], base: Path, place: str) -> Utterance:
    corpus = row.get("corpus")
    session = row.get("session")
    length_column = "duration" if row.get("duration") not in (None, "") else "seconds"
    seconds = _number(row, length_column, place)
    if seconds is not None and seconds <= 0:
        raise DataError(f"{place}: {length_column} is {seconds:g}; expected seconds above 0")
    return Utterance(
        path=base / str(row["path"]),
        speaker=f"{corpus}/{row['speaker']}" if corpus not in (None, "") else str(row["speaker"]),
        start=_number(row, "start", place) or 0.0,
        seconds=seconds,
        session=str(session) if session not in (None, "") else None,
    )


def _number(row: Mapping[str, Any], column: str, place: str) -> float | None:
    value = row.get(column)
    if value in (None, ""):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise DataError(f"{place}: {column} is {value!r}; expected seconds, 0 or more")
    return number


def manifest_rows(path: str | os.PathLike[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each row of a manifest as it stands, with the words that name its place (file and line).

    Raises:
        DataError: the file is absent, malformed or of another format.
        MissingDependencyError: a Parquet file without pyarrow.
    """
    source = Path(path)
    if not source.is_file():
        raise DataError(f"manifest {source} does not exist")
    suffix = source.suffix.lower()
    if suffix not in MANIFEST_SUFFIXES:
        raise DataError(f"manifest {source} has the suffix {suffix!r}; expected {', '.join(MANIFEST_SUFFIXES)}")
    if suffix == ".parquet":
        yield from _parquet_rows(source)
        return
    try:
        with source.open(encoding="utf-8-sig", newline="") as stream:
            if suffix == ".jsonl":
                yield from _jsonl_rows(source, stream)
            else:
                yield from _table_rows(source, stream, "\t" if suffix == ".tsv" else ",")
    except UnicodeDecodeError as error:
        raise DataError(f"manifest {source} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def _table_rows(source: Path, stream: Any, delimiter: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(stream, delimiter=delimiter)
    for row in reader:
        place = f"{source} line {reader.line_num}"
        if None in row:
            raise DataError(f"{place}: more fields than the header names ({len(reader.fieldnames or ())})")
        yield place, row


def _jsonl_rows(source: Path, stream: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        place = f"{source} line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{place}: not JSON ({error.msg}); expected one object per line") from error
        if not isinstance(row, dict):
            raise DataError(f"{place}: {type(row).__name__} found; expected one object per line")
        yield place, row


def _parquet_rows(source: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise MissingDependencyError(f'reading {source.name} needs pyarrow: pip install "redimnet-mrl[parquet]"') from error
    try:
        with parquet.ParquetFile(source) as table:
            number = 0
            for batch in table.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"{source} row {number}", row
    except (ArrowException, OSError) as error:
        raise DataError(f"manifest {source} cannot be read as Parquet: {error}") from error

"""Corpora that come as a list: CSV, TSV, JSONL or Parquet with one utterance per row."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from mrl.bounded import brief, lines_of, open_regular, parse_json, text_of
from mrl.bounded_tables import read_parquet
from mrl.data.utterances import UNKNOWN_SPEAKER, Corpus, Utterance
from mrl.errors import DataError, MissingDependencyError
from mrl.files import atomic_path

FilterValue = str | int | float | bool | Sequence[str | int | float | bool]
_ROWS_AT_ONCE = 10_000
MANIFEST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


def read_manifest(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    where: Mapping[str, FilterValue] | None = None,
    unlabelled: bool = False,
) -> Corpus:
    """Read a manifest with the columns ``path`` and ``speaker``.

    The columns ``start``, ``duration`` (or ``seconds``), ``session`` and ``corpus`` are read where they are there; others are for
    filtering.

    Args:
        path: ``.csv`` or ``.tsv`` with a header line, ``.jsonl`` with one object per line, or ``.parquet``.
        root: folder that relative paths start from; by default the manifest's own folder.
        where: keep only rows whose column equals the value, or one of the values: ``{"part": "train", "corpus": ["a", "b"]}``.
            Values are compared as text.
        unlabelled: there need be no column ``speaker``; if there is one, it is not read.

    A column ``corpus`` becomes part of the speaker's name (``corpus/speaker``), because corpora number their speakers alike.

    Raises:
        DataError: the file is absent, malformed (the line is named), lacks a column, or nothing passes the filter.
        MissingDependencyError: a Parquet file without pyarrow.
    """
    source = Path(path)
    base = Path(root) if root is not None else source.parent
    if unlabelled:
        rows = filtered_rows(source, where, required=("path",))
        utterances = [utterance_of(row, base, place) for place, row in rows]
        return Corpus.of(dataclasses.replace(utterance, speaker=UNKNOWN_SPEAKER) for utterance in utterances)
    return Corpus.of(utterance_of(row, base, place) for place, row in filtered_rows(source, where))


def filtered_rows(
    path: str | os.PathLike[str],
    where: Mapping[str, FilterValue] | None = None,
    *,
    required: Sequence[str] = ("path", "speaker"),
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows that pass the filter of :func:`read_manifest`, each with its place; all have the ``required`` columns.

    Raises:
        DataError, MissingDependencyError: see :func:`read_manifest`.
    """
    source = Path(path)
    wanted = {column: _as_texts(value) for column, value in (where or {}).items()}
    seen: dict[str, set[str]] = {column: set() for column in wanted}
    rows = passed = 0
    columns: list[str] = []
    for place, row in manifest_rows(source):
        rows += 1
        columns = list(row)
        for column, values in seen.items():
            if row.get(column) not in (None, ""):
                values.add(str(row[column]))
        if any(str(row.get(column)) not in values for column, values in wanted.items()):
            continue
        for column in required:
            if row.get(column) in (None, ""):
                raise DataError(f"{place}: no value in column {column!r} (columns here: {brief(columns)})")
            if isinstance(row[column], (list, dict, bool)):
                raise DataError(f"{place}: {column} is {brief(row[column])}; expected a text")
        passed += 1
        yield place, row
    if not rows:
        raise DataError(f"manifest {source} has no rows")
    if not passed:
        absent = [column for column, values in seen.items() if not values]
        if absent:
            raise DataError(f"no row of {source} has a value in column {absent[0]!r} (columns here: {', '.join(columns)})")
        known = "; ".join(f"{column}: {', '.join(sorted(values)[:8])}" for column, values in seen.items())
        raise DataError(f"none of the {rows} rows of {source} passes the filter {dict(where or {})} (values found: {known})")


def _as_texts(value: FilterValue) -> frozenset[str]:
    if isinstance(value, str | int | float | bool):
        return frozenset([str(value)])
    return frozenset(str(each) for each in value)


def utterance_of(row: Mapping[str, Any], base: Path, place: str) -> Utterance:
    """Return the utterance that a row describes; ``place`` is named in errors.

    Raises:
        DataError: a number is none.
    """
    corpus = row.get("corpus")
    session = row.get("session")
    length_column = "duration" if row.get("duration") not in (None, "") else "seconds"
    seconds = _number(row, length_column, place)
    if seconds is not None and seconds <= 0:
        raise DataError(f"{place}: {length_column} is {seconds:g}; expected seconds above 0")
    return Utterance(
        path=base / str(row["path"]),
        speaker=f"{corpus}/{row.get('speaker')}" if corpus not in (None, "") else str(row.get("speaker")),
        start=_number(row, "start", place) or 0.0,
        seconds=seconds,
        session=str(session) if session not in (None, "") else None,
        corpus=str(corpus) if corpus not in (None, "") else None,
    )


def _number(row: Mapping[str, Any], column: str, place: str) -> float | None:
    value = row.get(column)
    if value in (None, ""):
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise DataError(f"{place}: {column} is {brief(value)}; expected seconds, 0 or more")
    return number


def manifest_rows(path: str | os.PathLike[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each row of a manifest unchanged, with its place (file and line) for messages.

    Raises:
        DataError: the file is absent, malformed or of another format.
        MissingDependencyError: a Parquet file without pyarrow.
    """
    source = Path(path)
    if not source.is_file():
        problem = "is a folder, expected a file" if source.is_dir() else "does not exist"
        raise DataError(f"manifest {source} {problem}")
    suffix = source.suffix.lower()
    if suffix not in MANIFEST_SUFFIXES:
        raise DataError(f"manifest {source} has the unsupported extension {suffix!r}; expected {', '.join(MANIFEST_SUFFIXES)}")
    if suffix == ".parquet":
        yield from _parquet_rows(source)
        return
    with open_regular(source) as stream:
        lines = _text_lines(source, stream)
        if suffix == ".jsonl":
            yield from _jsonl_rows(source, lines)
        else:
            yield from _table_rows(source, lines, "\t" if suffix == ".tsv" else ",")


def _text_lines(source: Path, stream: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(lines_of(stream, f"manifest {source}"), start=1):
        text = text_of(line, f"manifest {source}, line {number},")
        yield text.removeprefix("\ufeff") if number == 1 else text


def _table_rows(source: Path, stream: Any, delimiter: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(stream, delimiter=delimiter)
    rows = iter(reader)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:  # a null character, or a field of more than 128 kB
            raise DataError(f"{source} line {reader.line_num}: {error}") from error
        place = f"{source} line {reader.line_num}"
        if None in row:
            raise DataError(f"{place}: more fields than the header names ({len(reader.fieldnames or ())})")
        yield place, row


def _jsonl_rows(source: Path, stream: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        place = f"{source} line {number}"
        row = parse_json(line, place, advice="expected one object per line")
        if not isinstance(row, dict):
            raise DataError(f"{place}: {type(row).__name__} found; expected one object per line")
        yield place, row


def _parquet_rows(source: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(f'reading {source.name} needs pyarrow: pip install "redimnet-mrl[parquet]"') from error
    number = 0
    for batch in read_parquet(source).to_batches(max_chunksize=_ROWS_AT_ONCE):
        for row in batch.to_pylist():
            number += 1
            yield f"{source} row {number}", row


def write_manifest(
    path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]], *, columns: Sequence[str] | None = None
) -> None:
    """Write rows as a manifest, atomically; :func:`manifest_rows` reads back what was written (CSV and TSV as text).

    Args:
        path: its suffix names the format: ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``.
        rows: column -> text, number or None; a column may be absent.
        columns: which columns, in this order; by default all that have a value, in order of first appearance.

    Raises:
        DataError: unknown suffix, or a text that the format cannot hold.
        MissingDependencyError: a Parquet file without pyarrow.
        OSError: the file cannot be written; one that was there before is as it was.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in MANIFEST_SUFFIXES:
        raise DataError(
            f"manifest {target} has the unsupported extension {target.suffix!r}; expected {', '.join(MANIFEST_SUFFIXES)}"
        )
    names = list(columns) if columns is not None else _used_columns(rows)
    with atomic_path(target) as temporary:
        try:
            if suffix == ".parquet":
                _write_parquet(temporary, rows, names)
            elif suffix == ".jsonl":
                _write_jsonl(temporary, rows, names)
            else:
                _write_table(temporary, rows, names, "\t" if suffix == ".tsv" else ",")
        except UnicodeEncodeError as error:
            text = error.object.encode("utf-8", "backslashreplace").decode()
            raise DataError(
                f"{target.name}: {text!r} is not valid Unicode (a file name of another encoding); rename it"
            ) from error


def _used_columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    columns: dict[str, None] = {}
    for row in rows:
        columns.update((name, None) for name, value in row.items() if value is not None)
    return list(columns)


def _write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            kept = {name: row[name] for name in names if row.get(name) is not None}
            stream.write(json.dumps(kept, ensure_ascii=False, allow_nan=False) + "\n")


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]], names: Sequence[str], delimiter: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
        writer.writerow(names)
        for row in rows:
            values = ["" if row.get(name) is None else row[name] for name in names]
            for value in values:
                if isinstance(value, str) and any(character in value for character in "\r\n\0"):
                    raise DataError(f"{value!r} has a line break or null character in it; rename it, or write .jsonl or .parquet")
            writer.writerow(values)


def _write_parquet(path: Path, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    try:
        from pyarrow import ArrowException, Table, parquet
    except ImportError as error:
        raise MissingDependencyError(
            'writing Parquet needs pyarrow: pip install "redimnet-mrl[parquet]", or write .jsonl or .csv'
        ) from error
    try:
        parquet.write_table(Table.from_pydict({name: [row.get(name) for row in rows] for name in names}), path)
    except ArrowException as error:
        raise DataError(f"{path.suffix} cannot hold these values: {error}") from error

"""Manifests in every format, and what is wrong with bad ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mrl.data import Utterance, read_manifest
from mrl.errors import DataError

ROWS = [
    {"path": "a/1.wav", "speaker": "s1", "start": 0.5, "duration": 2.0, "session": "v1", "part": "train"},
    {"path": "a/2.wav", "speaker": "s1", "start": "", "duration": "", "session": "", "part": "eval"},
    {"path": "/abs/3.wav", "speaker": "s0", "start": "", "duration": 3.5, "session": "", "part": "train"},
]


def _write(path: Path, rows: list[dict[str, object]] = ROWS) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({k: v for k, v in row.items() if v != ""}) for row in rows) + "\n\n")
    elif path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        columns = {name: [None if row[name] == "" else row[name] for row in rows] for name in rows[0]}
        parquet.write_table(pyarrow.table(columns), path)
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        lines = [mark.join(rows[0]), *(mark.join(str(value) for value in row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_all_formats_give_the_same(tmp_path: Path, suffix: str) -> None:
    corpus = read_manifest(_write(tmp_path / f"list.{suffix}"))
    assert corpus.utterances == (
        Utterance(Path("/abs/3.wav"), "s0", seconds=3.5),
        Utterance(tmp_path / "a/1.wav", "s1", 0.5, 2.0, "v1"),
        Utterance(tmp_path / "a/2.wav", "s1"),
    )


def test_filters_and_root(tmp_path: Path) -> None:
    path = _write(tmp_path / "list.csv")
    corpus = read_manifest(path, root="/data", where={"part": ["train", "dev"]})
    assert [one.path for one in corpus.utterances] == [Path("/abs/3.wav"), Path("/data/a/1.wav")]
    with pytest.raises(DataError, match=r"none of the 3 rows .* \(values found: part: eval, train\)"):
        read_manifest(path, where={"part": "test"})
    with pytest.raises(DataError, match=r"no row of .* has a value in column 'age' \(columns here: path, speaker"):
        read_manifest(path, where={"age": 3})


def test_rows_that_are_filtered_out_need_no_speaker(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("path,speaker,part\nnoise.wav,,noise\na.wav,s,train\n")
    assert len(read_manifest(path, where={"part": "train"})) == 1
    with pytest.raises(DataError, match="line 2: no value in column 'speaker'"):
        read_manifest(path)


def test_filter_values_are_compared_as_text(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text('{"path": "a", "speaker": "s", "age": 7}\n{"path": "b", "speaker": "s", "age": 8}\n')
    assert [one.path.name for one in read_manifest(path, where={"age": "7"}).utterances] == ["a"]


def test_corpora_do_not_share_speaker_numbers(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("path,speaker,corpus,seconds\na,001,x,1\nb,001,y,2\n")
    corpus = read_manifest(path)
    assert corpus.speakers == ("x/001", "y/001")
    assert [one.seconds for one in corpus.utterances] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "file,speaker\nx,1\n", "line 2: no value in column 'path'"),
        ("a.csv", "path,speaker\nx,\n", "line 2: no value in column 'speaker'"),
        ("a.csv", "path,speaker\nx,1,2\n", "line 2: more fields than the header names"),
        ("a.csv", "path,speaker\n", "has no rows"),
        ("a.csv", "", "has no rows"),
        ("a.csv", "path,speaker,start\nx,1,soon\n", "line 2: start is 'soon'"),
        ("a.csv", "path,speaker,start\nx,1,-1\n", "line 2: start is '-1'"),
        ("a.csv", "path,speaker,duration\nx,1,nan\n", "line 2: duration is 'nan'"),
        ("a.csv", "path,speaker,seconds\nx,1,0\n", "line 2: seconds is 0"),
        ("a.jsonl", '{"path": "x", "speaker": "1"}\n{oops\n', "line 2 is not JSON"),
        ("a.jsonl", "[1]\n", "line 1: list found"),
        ("a.txt", "x 1\n", "unsupported extension '.txt'; expected .csv"),
        ("a.parquet", "nonsense", "is damaged or not Parquet"),
    ],
)
def test_malformed(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_manifest(path)


def test_not_text_and_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"path,speaker\n\xff\xfe,1\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_manifest(path)
    with pytest.raises(DataError, match="does not exist"):
        read_manifest(tmp_path / "none.csv")
    with pytest.raises(DataError, match="is a folder, expected a file"):
        read_manifest(tmp_path)

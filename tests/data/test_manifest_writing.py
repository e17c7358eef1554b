"""What is written as a manifest is read back, in every format."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl import files
from mrl.data import read_manifest, write_manifest
from mrl.data.manifest import manifest_rows
from mrl.errors import DataError

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\ufeff"), min_size=1, max_size=8)
SECONDS = st.floats(0.01, 1e5, allow_nan=False)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "path": st.builds("{}/{}.wav".format, NAMES, NAMES),
            "speaker": NAMES,
            "start": st.none() | SECONDS,
            "seconds": SECONDS,
            "session": st.none() | NAMES,
            "corpus": st.none() | NAMES,
            "sample_rate": st.sampled_from([8000, 16000]),
        }
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda row: row["path"],
)


@settings(max_examples=25, deadline=None)
@given(rows=ROWS, suffix=st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]))
def test_round_trip(rows: list[dict[str, Any]], suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"m{suffix}"
        write_manifest(path, rows)
        corpus = read_manifest(path, root="/data")
        again = [row for _, row in manifest_rows(path)]
    found = {str(one.path.relative_to("/data")): one for one in corpus.utterances}
    assert len(found) == len(rows)
    for row in rows:
        one = found[str(Path(row["path"]))]
        assert one.speaker == (row["speaker"] if row["corpus"] is None else f"{row['corpus']}/{row['speaker']}")
        assert (one.start, one.seconds, one.session) == (row["start"] or 0.0, row["seconds"], row["session"])
    assert [int(row["sample_rate"]) for row in again] == [row["sample_rate"] for row in rows]


def test_columns_without_values_are_left_out(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.csv", [{"path": "a", "speaker": "s", "session": None}, {"path": "b", "speaker": "s", "age": 7}])
    assert (tmp_path / "m.csv").read_text() == "path,speaker,age\na,s,\nb,s,7\n"
    write_manifest(tmp_path / "e.tsv", [], columns=("path", "why"))
    assert (tmp_path / "e.tsv").read_text() == "path\twhy\n"


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_name_that_is_not_unicode(tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"m{suffix}"
    with pytest.raises(DataError, match=r"not valid Unicode|cannot hold these values"):
        write_manifest(target, [{"path": "a\udcff.wav", "speaker": "s"}])
    assert list(tmp_path.iterdir()) == []


def test_a_line_break_needs_another_format(tmp_path: Path) -> None:
    rows = [{"path": "a\nb.wav", "speaker": "s"}]
    with pytest.raises(DataError, match=r"has a line break .* write \.jsonl or \.parquet"):
        write_manifest(tmp_path / "m.csv", rows)
    for suffix in (".jsonl", ".parquet"):
        write_manifest(tmp_path / f"m{suffix}", rows)
        assert read_manifest(tmp_path / f"m{suffix}").utterances[0].path.name == "a\nb.wav"


def test_a_full_disk_leaves_the_old_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "m.parquet"
    write_manifest(target, [{"path": "a", "speaker": "s"}])

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_manifest(target, [{"path": "b", "speaker": "s"}])
    assert [one.path.name for one in read_manifest(target).utterances] == ["a"]
    assert list(tmp_path.iterdir()) == [target]


def test_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"unsupported extension '\.txt'; expected \.csv"):
        write_manifest(tmp_path / "m.txt", [])

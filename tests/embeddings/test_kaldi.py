"""Kaldi archives, written byte by byte here."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mrl.embeddings import load_embeddings, save_embeddings
from mrl.errors import DataError, InputError

KEYS = ["id1-a", "id2/video/b.wav", "ß-c"]
ROWS = np.array([[1.5, -2.0, 3e-30], [0.25, 7.0, 1e30], [1.0, 0.0, -0.5]])


def vector(values: np.ndarray, kind: str = "F") -> bytes:
    numbers = values.astype("<f4" if kind == "F" else "<f8").tobytes()
    return b"\0B" + f"{kind}V ".encode() + b"\4" + struct.pack("<i", len(values)) + numbers


def write_ark(path: Path, kind: str = "F", keys: list[str] = KEYS, rows: np.ndarray = ROWS) -> list[int]:
    """Write an archive; return the place of every value, as an .scp names it."""
    data, places = b"", []
    for key, row in zip(keys, rows, strict=True):
        data += key.encode() + b" "
        places.append(len(data))
        data += vector(row, kind)
    path.write_bytes(data)
    return places


@pytest.mark.parametrize("kind", ["F", "D"])
def test_binary_archive(kind: str, tmp_path: Path) -> None:
    write_ark(tmp_path / "e.ark", kind)
    table = load_embeddings(tmp_path / "e.ark")
    assert table.ids == tuple(KEYS) and table.metadata == {}
    assert table.matrix.dtype == np.float32
    np.testing.assert_array_equal(table.matrix, ROWS.astype(np.float32))


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    rows=arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 7)),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
)
def test_any_numbers_survive(tmp_path: Path, rows: np.ndarray) -> None:
    keys = [f"u{number}" for number in range(len(rows))]
    write_ark(tmp_path / "e.ark", keys=keys, rows=rows)
    np.testing.assert_array_equal(load_embeddings(tmp_path / "e.ark").matrix, rows)


def test_text_archive_and_matrices_of_one_row(tmp_path: Path) -> None:
    text = "".join(f"{key}  [ {' '.join(repr(float(value)) for value in row)} ]\n" for key, row in zip(KEYS, ROWS, strict=True))
    (tmp_path / "e.ark").write_text(text, encoding="utf-8")
    np.testing.assert_array_equal(load_embeddings(tmp_path / "e.ark").matrix, ROWS.astype(np.float32))
    row = b"u \0BFM \4" + struct.pack("<i", 1) + b"\4" + struct.pack("<i", 3) + ROWS[0].astype("<f4").tobytes()
    (tmp_path / "m.ark").write_bytes(row)
    np.testing.assert_array_equal(load_embeddings(tmp_path / "m.ark").matrix, ROWS[:1].astype(np.float32))


def test_a_list_into_two_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = write_ark(tmp_path / "one.ark"), write_ark(tmp_path / "two.ark", "D", ["x", "y", "z"])
    lines = [f"{KEYS[2]} {tmp_path / 'one.ark'}:{first[2]}", f"y two.ark:{second[1]}", "", f"{KEYS[0]} one.ark:{first[0]}"]
    (tmp_path / "e.scp").write_text("\n".join(lines) + "\n", encoding="utf-8")
    table = load_embeddings(tmp_path / "e.scp")
    assert table.ids == (KEYS[2], "y", KEYS[0])
    np.testing.assert_array_equal(table.matrix, ROWS[[2, 1, 0]].astype(np.float32))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no vectors"),
        (b"key " + vector(ROWS[0])[:-3], "cut off"),
        (b"key \0BCM \4", "its type is not read"),
        (b"key \0BFM \4" + struct.pack("<i", 2) + b"\4" + struct.pack("<i", 3) + bytes(24), "a matrix of 2 x 3"),
        (b"key \0BFV \4" + struct.pack("<i", -7), "damaged"),
        (b"a " + vector(ROWS[0]) + b"b " + vector(ROWS[1][:2]), "different lengths: 2, 3"),
        (b"a " + vector(ROWS[0]) + b"a " + vector(ROWS[1]), "repeated"),
        (b"\x93NUMPY\x01\0\0\0", "no Kaldi archive"),
        (b"key 0.1 0.2\n", "expected '\\[ numbers \\]'"),
        (b"key [ 0.1 zwei ]\n", "expected numbers"),
    ],
)
def test_damage_is_told_in_one_line(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "e.ark").write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        load_embeddings(tmp_path / "e.ark")
    assert "\n" not in str(caught.value)


def test_lists_that_cannot_be_followed(tmp_path: Path) -> None:
    for line, message in (("a absent.ark:5", "does not exist"), ("a cat e.ark |", "no pipes"), ("a e.ark", "KEY FILE:OFFSET")):
        (tmp_path / "e.scp").write_text(line + "\n")
        with pytest.raises(DataError, match=message):
            load_embeddings(tmp_path / "e.scp")


def test_nothing_is_written_as_kaldi(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected one of .npz, .parquet, .safetensors$"):
        save_embeddings(tmp_path / "e.ark", KEYS, ROWS)

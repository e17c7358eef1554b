"""Embedding files."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mrl.embeddings import EMBEDDING_SUFFIXES, load_embeddings, save_embeddings
from mrl.errors import DataError, InputError, MissingDependencyError

IDS = ["id00001/vid/0.wav", "zweite Äußerung/ß.flac", "第三/a b.opus"]
MATRIX = np.array([[1.5, -2.0], [0.25, 3e-30], [1e30, 7.0]], dtype=np.float32)
METADATA = {"model": "b2", "dim": 2, "nested": {"unit_length": True, "seconds": None}}


@pytest.mark.parametrize("suffix", EMBEDDING_SUFFIXES)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_round_trip_is_exact(suffix: str, tmp_path: Path, data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(0, 5), st.integers(1, 6)))
    finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
    matrix = data.draw(arrays.arrays(np.float32, shape, elements=finite))
    text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
    ids = data.draw(st.lists(text, min_size=shape[0], max_size=shape[0], unique=True))
    save_embeddings(tmp_path / f"e{suffix}", ids, matrix, METADATA)
    table = load_embeddings(tmp_path / f"e{suffix}")
    assert table.ids == tuple(ids)
    assert table.metadata == METADATA
    assert table.matrix.dtype == np.float32
    np.testing.assert_array_equal(table.matrix, matrix)


@pytest.mark.parametrize("suffix", EMBEDDING_SUFFIXES)
def test_damaged_files_give_one_clear_line(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"e{suffix}"
    save_embeddings(file, IDS, MATRIX, METADATA)
    whole = file.read_bytes()
    for broken in (whole[: len(whole) // 2], whole[:10], b"", b"<html>not found</html>" * 20, b"\x00" * len(whole)):
        file.write_bytes(broken)
        with pytest.raises(DataError, match="damaged") as caught:
            load_embeddings(file)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", EMBEDDING_SUFFIXES)
def test_a_failed_write_keeps_the_old_file_and_leaves_no_rubbish(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mrl.embeddings import formats

    file = tmp_path / f"e{suffix}"
    save_embeddings(file, IDS, MATRIX)
    before = file.read_bytes()

    def disk_full(temporary: Path, *_: object) -> None:
        temporary.write_bytes(before[:7])
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(formats._WRITERS, suffix, disk_full)
    with pytest.raises(OSError, match="No space left"):
        save_embeddings(file, IDS, MATRIX + 1)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_pickles_are_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (builtins.exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    np.savez(tmp_path / "e.npz", ids=np.array(["a"]), embeddings=np.array([Evil()], dtype=object))
    with pytest.raises(DataError, match="damaged"):
        load_embeddings(tmp_path / "e.npz")
    assert not (tmp_path / "ran").exists()


def test_files_of_other_layouts_say_what_is_missing(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet
    from safetensors.numpy import save_file

    np.savez(tmp_path / "e.npz", vectors=MATRIX)
    pyarrow.parquet.write_table(pyarrow.table({"vectors": [1.0]}), tmp_path / "e.parquet")
    save_file({"vectors": MATRIX}, tmp_path / "e.safetensors")
    for suffix in EMBEDDING_SUFFIXES:
        with pytest.raises(DataError, match=r"expected 'ids?' and 'embeddings?' in it, found \['vectors'\]"):
            load_embeddings(tmp_path / f"e{suffix}")


def test_foreign_npz_without_metadata_and_foreign_parquet_with_plain_lists(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    np.savez(tmp_path / "e.npz", ids=np.array(IDS), embeddings=MATRIX.astype(np.float64))
    table = pyarrow.table({"id": IDS, "embedding": MATRIX.astype(np.float64).tolist()})
    pyarrow.parquet.write_table(table, tmp_path / "e.parquet")
    for suffix in (".npz", ".parquet"):
        loaded = load_embeddings(tmp_path / f"e{suffix}")
        assert loaded.ids == tuple(IDS) and loaded.metadata == {}
        np.testing.assert_array_equal(loaded.matrix, MATRIX)
    uneven = pyarrow.table({"id": ["a", "b"], "embedding": [[1.0, 2.0], [1.0]]})
    pyarrow.parquet.write_table(uneven, tmp_path / "e.parquet")
    with pytest.raises(DataError, match="different lengths"):
        load_embeddings(tmp_path / "e.parquet")


def test_a_bare_array_and_repeated_ids_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "e.npz").open("wb") as stream:
        np.save(stream, MATRIX)
    with pytest.raises(DataError, match="bare array"):
        load_embeddings(tmp_path / "e.npz")
    np.savez(tmp_path / "e.npz", ids=np.array(["a", "a", "b"]), embeddings=MATRIX)
    with pytest.raises(DataError, match="1 of 3 ids are repeated"):
        load_embeddings(tmp_path / "e.npz")


@pytest.mark.parametrize(
    ("path", "ids", "matrix", "metadata", "message"),
    [
        ("e.csv", IDS, MATRIX, {}, "'.csv' is no suffix"),
        ("e.npz", IDS[:2], MATRIX, {}, "2 ids"),
        ("e.npz", IDS, MATRIX[:, 0], {}, "shape"),
        ("e.npz", ["a", "b", "a"], MATRIX, {}, "repeated"),
        ("e.npz", IDS, MATRIX * np.nan, {}, "3 of 3 embeddings hold NaN"),
        ("e.npz", IDS, MATRIX, {"x": float("inf")}, "JSON"),
        ("e.npz", IDS, MATRIX, {"x": object()}, "JSON"),
    ],
)
def test_what_cannot_be_saved(
    path: str, ids: list[str], matrix: np.ndarray, metadata: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        save_embeddings(tmp_path / path, ids, matrix, metadata)
    assert not list(tmp_path.iterdir())


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_embeddings(tmp_path / "e.npz")


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"redimnet-mrl\[parquet\]"):
        save_embeddings(tmp_path / "e.parquet", IDS, MATRIX)
    assert not list(tmp_path.iterdir())


def test_safetensors_can_be_read_without_this_package(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    save_embeddings(tmp_path / "e.safetensors", IDS, MATRIX)
    tensors = load_file(tmp_path / "e.safetensors")
    assert json.loads(tensors["ids"].tobytes()) == IDS

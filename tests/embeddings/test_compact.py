"""Compact formats: exact bytes, error bounds, prefixes, and cosines of what is held."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.embeddings import compact
from mrl.embeddings.compact import (
    EMBEDDING_FORMATS,
    EmbeddingFormat,
    bytes_per_embedding,
    cosine_error_bound,
    decode_embeddings,
    encode_embeddings,
    encoded_cosines,
    encoded_prefix,
    hamming_distances,
)
from mrl.errors import DataError, InputError

FORMATS = st.sampled_from(EMBEDDING_FORMATS)


def _cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    one, two = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (first.astype(float), second.astype(float)))
    return one @ two.T


def test_bytes_as_documented() -> None:
    row = np.array([[3.0, -4.0, 0.0]])  # 0.6, -0.8, 0 at unit length
    assert encode_embeddings(row, "float32").tobytes() == struct.pack("<3f", 0.6, -0.8, 0.0)
    assert encode_embeddings(row, "float16").tobytes() == struct.pack("<3e", 0.6, -0.8, 0.0)
    assert encode_embeddings(row, "int8").tobytes() == struct.pack("<f3b", 0.8 / 127, 95, -127, 0)
    assert encode_embeddings(row, "binary").tobytes() == struct.pack("<Q", 0b101)
    wide = -np.ones((1, 70))
    wide[0, [0, 63, 64, 69]] = 1.0
    assert encode_embeddings(wide, "binary").tobytes() == struct.pack("<2Q", 1 | 1 << 63, 1 | 1 << 5)


@pytest.mark.parametrize(("form", "size"), [("float32", 1024), ("float16", 512), ("int8", 260), ("binary", 32)])
def test_size_of_256_dims(form: EmbeddingFormat, size: int) -> None:
    assert bytes_per_embedding(form, 256) == size == encode_embeddings(np.ones((1, 256)), form).shape[1]


@given(form=FORMATS, dim=st.integers(1, 300), scale=st.sampled_from([1e-30, 1.0, 1e30]), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_cosines_stay_within_the_bound(form: EmbeddingFormat, dim: int, scale: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = random.standard_normal((6, dim)) ** 3 * scale
    encoded = encode_embeddings(rows, form)
    held = decode_embeddings(encoded, form, dim)
    assert np.linalg.norm(held, axis=1) == pytest.approx(1.0, abs=1e-6)
    cosines = encoded_cosines(encoded[:2], encoded, form, dim)
    assert cosines.shape == (2, 6) and np.abs(cosines).max() <= 1.0 + 1e-6
    assert np.abs(cosines - _cosines(held[:2], held)).max() <= (dim + 3) * 2.0**-24  # the cosine of what is held
    assert np.abs(cosines - _cosines(rows[:2], rows)).max() <= cosine_error_bound(form, dim)


@given(form=FORMATS, dim=st.integers(2, 200), seed=st.integers(0, 99), data=st.data())
@settings(max_examples=60, deadline=None)
def test_prefix_of_the_encoded_is_the_encoded_prefix(form: EmbeddingFormat, dim: int, seed: int, data: st.DataObject) -> None:
    target_dim = data.draw(st.integers(1, dim))
    rows = np.random.default_rng(seed).standard_normal((5, dim))
    encoded = encode_embeddings(rows, form)
    prefix = encoded_prefix(encoded, form, dim, target_dim)
    assert prefix.shape == (5, bytes_per_embedding(form, target_dim))
    if form == "binary":
        assert np.array_equal(prefix, encode_embeddings(rows[:, :target_dim], form))
        return
    held = decode_embeddings(encoded, form, dim)[:, :target_dim].astype(float)
    if (np.linalg.norm(held, axis=1) > 0).all():
        assert np.abs(encoded_cosines(prefix, prefix, form, target_dim) - _cosines(held, held)).max() < 2e-6


@given(dim=st.integers(1, 200), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_int8_numbers_are_half_a_step_away_at_most(dim: int, seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((4, dim))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    encoded = encode_embeddings(rows, "int8")
    scales = encoded[:, :4].copy().view("<f4").astype(float)
    codes = encoded[:, 4:].view(np.int8)
    assert np.abs(codes).max() == 127
    assert (np.abs(scales * codes - unit) <= scales / 2 * (1 + 1e-5)).all()


@given(dim=st.integers(1, 200), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_hamming_counts_differing_signs(dim: int, seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((7, dim))
    encoded = encode_embeddings(rows, "binary")
    expected = ((rows[:, None] >= 0) != (rows[None] >= 0)).sum(axis=2)
    assert np.array_equal(hamming_distances(encoded, encoded), expected)


def test_bits_are_counted_without_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    words = np.random.default_rng(0).integers(0, 2**64, (5, 3), dtype=np.uint64)
    expected = np.array([[bin(word).count("1") for word in row] for row in words.tolist()])
    assert np.array_equal(compact.count_bits(words), expected)
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert np.array_equal(compact.count_bits(words), expected)


def test_float32_returns_its_very_numbers() -> None:
    rows = np.random.default_rng(0).standard_normal((5, 40)).astype(np.float32)
    encoded = encode_embeddings(rows, "float32")
    assert np.array_equal(decode_embeddings(encoded, "float32", 40).view(np.uint8), encoded)


def test_no_embeddings_at_all() -> None:
    for form in EMBEDDING_FORMATS:
        encoded = encode_embeddings(np.empty((0, 5)), form)
        assert decode_embeddings(encoded, form, 5).shape == (0, 5)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.full((2, 3), np.nan), "2 of 2 embeddings hold NaN"),
        (np.array([[1.0, np.inf]]), "NaN or infinity"),
        (np.array([[1.0, 0.0], [0.0, 0.0]]), "1 of 2 embeddings are all zeros"),
        (np.ones(3), "shape (3,)"),
        (np.array([["a"]]), "must be numbers"),
    ],
)
def test_what_cannot_be_encoded(rows: np.ndarray, message: str) -> None:
    for form in EMBEDDING_FORMATS:
        with pytest.raises(InputError) as caught:
            encode_embeddings(rows, form)
        assert message in str(caught.value)


def test_damaged_bytes_and_wrong_shapes() -> None:
    encoded = encode_embeddings(np.ones((2, 4)), "float32")
    encoded[1, :4] = np.frombuffer(struct.pack("<f", float("nan")), dtype=np.uint8)
    with pytest.raises(DataError, match="1 of 2 encoded embeddings hold NaN"):
        decode_embeddings(encoded, "float32", 4)
    with pytest.raises(DataError, match="only zeros"):
        encoded_cosines(np.zeros((1, 8), np.uint8), np.ones((1, 8), np.uint8), "int8", 4)
    with pytest.raises(InputError, match=r"bytes \(n, 20\)"):
        decode_embeddings(encoded, "float32", 5)
    with pytest.raises(InputError, match="unknown embedding format 'int4'"):
        bytes_per_embedding("int4", 4)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="1..4, found 5"):
        encoded_prefix(encoded, "float32", 4, 5)

"""Compact embeddings: four formats, their exact bytes, and the cosine of what they hold.

Embeddings are scaled to unit length before they are encoded, because only their cosines matter. All numbers are little-endian.

Bytes of an embedding of ``dim`` numbers, in brackets those of 256; how much its cosines may differ at worst
(:func:`cosine_error_bound`):

- ``float32``: ``dim`` IEEE singles (1024 bytes); 1.6e-5 at 256 dims, nearly all of it from summing in float32.
- ``float16``: ``dim`` IEEE halves (512 bytes); 0.001 at 256 dims.
- ``int8``: one IEEE single, the scale, then ``dim`` signed bytes (260 bytes); a number is scale x byte; 0.126 at 256 dims.
- ``binary``: ``ceil(dim / 64)`` unsigned 64-bit words (32 bytes); bit ``i % 64`` of word ``i // 64`` is 1 where number ``i`` is
  not negative, bits past ``dim`` are 0; nothing is promised.

Rounding errors of different dimensions mostly cancel, so the usual difference is far below the worst one. The cosine of two
binary embeddings is ``1 - 2 h / dim`` with ``h`` the number of differing bits (Hamming distance): exactly the cosine of the two
sign vectors, but another scale than that of the embeddings before, so thresholds and calibrations do not carry over.

A prefix of an encoded embedding is the encoded prefix, up to a scale that cosines do not see: :func:`encoded_prefix`.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from mrl.errors import DataError, InputError

EmbeddingFormat = Literal["float32", "float16", "int8", "binary"]
EMBEDDING_FORMATS: tuple[EmbeddingFormat, ...] = get_args(EmbeddingFormat)

Encoded = npt.NDArray[np.uint8]
FloatMatrix = npt.NDArray[np.float32]

_SCALE_BYTES = 4
_LARGEST_CODE = 127
_WORD_BITS = 64


def bytes_per_embedding(form: EmbeddingFormat, dim: int) -> int:
    """Return how many bytes one embedding of ``dim`` numbers takes.

    Raises:
        InputError: unknown format, or ``dim`` below 1.
    """
    if form not in EMBEDDING_FORMATS:
        raise InputError(f"unknown embedding format {form!r}; expected one of {', '.join(EMBEDDING_FORMATS)}")
    if isinstance(dim, bool) or dim < 1:
        raise InputError(f"dim must be a whole number from 1 up, found {dim}")
    if form == "binary":
        return 8 * -(-dim // _WORD_BITS)
    return {"float32": 4 * dim, "float16": 2 * dim, "int8": _SCALE_BYTES + dim}[form]


def cosine_error_bound(form: EmbeddingFormat, dim: int) -> float:
    """Return by how much the cosine of two encoded embeddings can differ from that of the embeddings, at worst.

    With ``u = 2**-24``, half the spacing of float32 relative to its numbers:

    - Encoding moves a unit vector by at most ``e`` (half a step in every dimension), which turns it by at most ``asin e``. Both
      vectors may turn apart, and a cosine changes by no more than the angle: ``2 asin e``. For ``float32``, ``e = u`` bounds what
      the length changes, too, because ``|(x + d) . (y + f) - x . y| <= |d| + |f| + |d| |f|``.
    - ``float16`` is scaled to unit length again, which rounds every number once: two factors of ``1 + u`` in every product.
    - The cosine is a float32 sum of ``dim`` products in an order that the processor chooses: at most ``dim`` roundings of each
      product. Factors ``(1 + u)**n`` change ``x . y`` by at most ``n u / (1 - n u)`` times the sum of ``|x_i y_i|``, which is at
      most 1 (Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, section 3.1).
    - ``int8`` is computed in float64 and rounded once.

    ``binary`` has no bound below the whole range, 2.
    """
    bytes_per_embedding(form, dim)
    if form == "binary":
        return 2.0
    unit = 2.0**-24
    moved, roundings = {
        "float32": (unit, dim),
        "float16": (2.0**-11 + 2.0**-25 * math.sqrt(dim), dim + 2),
        "int8": (math.sqrt(dim) / (2 * _LARGEST_CODE) * (1 + 2.0**-20), 1),
    }[form]
    # The lengths of both, and float64 before, are good for a few parts in 10^7 of this.
    summed = (1 + 2.0**-20) * roundings * unit / (1 - roundings * unit)
    return min(2.0, 2 * math.asin(min(1.0, moved)) + summed)


def encode_embeddings(matrix: npt.ArrayLike, form: EmbeddingFormat) -> Encoded:
    """Encode embeddings.

    Args:
        matrix: (n, dim) of any scale.
        form: one of :data:`EMBEDDING_FORMATS`.

    Returns:
        (n, :func:`bytes_per_embedding`) bytes.

    Raises:
        InputError: unknown format, wrong shape, NaN, infinity, or an embedding that is all zeros.
    """
    rows = np.asarray(matrix)
    if rows.ndim != 2 or rows.dtype.kind not in "fiu":
        raise InputError(f"embeddings to encode must be numbers (n, dim); found {rows.dtype} of shape {rows.shape}")
    width = bytes_per_embedding(form, rows.shape[1])
    unit = _unit_length(rows)
    if form == "float32":
        return _as_bytes(unit.astype("<f4"), width)
    if form == "float16":
        return _as_bytes(unit.astype("<f2"), width)
    if form == "int8":
        scales = (np.abs(unit).max(axis=1, initial=0.0) / _LARGEST_CODE).astype("<f4")
        codes = np.rint(unit / scales[:, None].astype(np.float64))
        codes = np.clip(codes, -_LARGEST_CODE, _LARGEST_CODE).astype(np.int8)
        return np.concatenate([_as_bytes(scales[:, None], _SCALE_BYTES), codes.view(np.uint8)], axis=1)
    packed = np.packbits(unit >= 0, axis=1, bitorder="little")
    return np.pad(packed, ((0, 0), (0, width - packed.shape[1])))


def decode_embeddings(encoded: npt.ArrayLike, form: EmbeddingFormat, dim: int) -> FloatMatrix:
    """Return the embeddings (n, dim) float32, each at unit length (to float32 rounding).

    Args:
        encoded: (n, bytes) as :func:`encode_embeddings` gave them.
        form, dim: what they were encoded as.

    Raises:
        InputError: unknown format or wrong shape.
        DataError: the bytes hold NaN, infinity or an embedding without length: they are damaged.
    """
    rows = _checked(encoded, form, dim)
    if form == "binary":
        signs = np.unpackbits(rows, axis=1, count=dim, bitorder="little").astype(np.float32)
        values: FloatMatrix = (2.0 * signs - 1.0) * np.float32(1.0 / math.sqrt(dim))
        return values
    numbers = _numbers(rows, form, dim)
    squares = np.einsum("nd,nd->n", numbers, numbers, dtype=np.float64)
    if not (np.isfinite(squares).all() and (squares > 0).all()):
        wrong = np.count_nonzero(~(np.isfinite(squares) & (squares > 0)))
        raise DataError(f"{wrong} of {len(rows)} encoded embeddings hold NaN, infinity or only zeros; the data are damaged")
    if form == "float32" and bool((np.abs(squares - 1.0) < 1e-6).all()):
        return numbers  # bit for bit what was encoded
    unit: FloatMatrix = (numbers / np.sqrt(squares)[:, None]).astype(np.float32)
    return unit


def encoded_prefix(encoded: npt.ArrayLike, form: EmbeddingFormat, dim: int, target_dim: int) -> Encoded:
    """Return the first ``target_dim`` numbers of encoded embeddings, encoded: (n, bytes of ``target_dim``).

    Those of ``float32`` and ``float16`` are no longer of unit length, and the scale of ``int8`` is that of the whole embedding;
    :func:`decode_embeddings` and :func:`encoded_cosines` divide by the length.

    Raises:
        InputError: unknown format, wrong shape, or ``target_dim`` not in 1..dim.
    """
    rows = _checked(encoded, form, dim)
    if isinstance(target_dim, bool) or not 1 <= target_dim <= dim:
        raise InputError(f"target_dim must lie in 1..{dim}, found {target_dim}")
    prefix = rows[:, : bytes_per_embedding(form, target_dim)].copy()
    if form == "binary" and target_dim % _WORD_BITS:
        whole, left = divmod(target_dim, 8)
        end = whole + (left > 0)
        prefix[:, end:] = 0
        if left:
            prefix[:, whole] &= (1 << left) - 1
    return prefix


def encoded_cosines(first: npt.ArrayLike, second: npt.ArrayLike, form: EmbeddingFormat, dim: int) -> FloatMatrix:
    """Return the cosines (n, m) of what two lots of encoded embeddings hold.

    ``int8`` is computed from the whole numbers (the scales cancel), ``binary`` from the bits; both are exact up to the last
    rounding to float32.

    Args:
        first, second: (n, bytes) and (m, bytes), of one format and dim.
        form, dim: what both were encoded as.

    Raises:
        InputError: unknown format or wrong shapes.
        DataError: damaged bytes.
    """
    if form == "binary":
        one, two = _checked(first, form, dim), _checked(second, form, dim)
        by_bits: FloatMatrix = (1.0 - 2.0 * hamming_distances(one, two) / dim).astype(np.float32)
        return by_bits
    if form == "int8":
        codes = [_checked(rows, form, dim)[:, _SCALE_BYTES:].view(np.int8).astype(np.float64) for rows in (first, second)]
        norms = [np.sqrt(np.einsum("nd,nd->n", one, one)) for one in codes]
        if any((one == 0).any() for one in norms):
            raise DataError("an encoded embedding holds only zeros; the data are damaged")
        by_codes: FloatMatrix = (codes[0] @ codes[1].T / norms[0][:, None] / norms[1]).astype(np.float32)
        return by_codes
    unit = [decode_embeddings(rows, form, dim) for rows in (first, second)]
    cosines: FloatMatrix = np.clip(unit[0] @ unit[1].T, -1.0, 1.0)
    return cosines


def hamming_distances(first: Encoded, second: Encoded) -> npt.NDArray[np.int32]:
    """Return the numbers of differing bits (n, m) of two lots of ``binary`` embeddings (n, bytes) and (m, bytes)."""
    one = np.ascontiguousarray(first).view("<u8")
    two = np.ascontiguousarray(second).view("<u8")
    distances = np.zeros((len(one), len(two)), dtype=np.int32)
    for column in range(one.shape[1]):
        distances += count_bits(one[:, column, None] ^ two[None, :, column])
    return distances


def count_bits(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Return how many bits of each 64-bit word are 1."""
    if hasattr(np, "bitwise_count"):  # NumPy 2
        counted: npt.NDArray[np.uint8] = np.bitwise_count(words)
        return counted
    per_byte = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)
    octets = np.ascontiguousarray(words)[..., None].view(np.uint8)
    summed: npt.NDArray[np.uint8] = per_byte[octets].sum(axis=-1, dtype=np.uint8)
    return summed


def _unit_length(rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    values = rows.astype(np.float64)
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise InputError(
            f"{np.count_nonzero(~finite)} of {len(rows)} embeddings hold NaN or infinity; check recordings and model"
        )
    # Dividing by the largest number first keeps tiny and huge embeddings from under- and overflowing when squared.
    largest = np.abs(values).max(axis=1, initial=0.0)
    if (largest == 0).any():
        raise InputError(f"{np.count_nonzero(largest == 0)} of {len(rows)} embeddings are all zeros and have no cosine")
    values /= largest[:, None]
    values /= np.linalg.norm(values, axis=1)[:, None]
    return values


def _as_bytes(rows: npt.NDArray[Any], width: int) -> Encoded:
    return np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), width)


def _checked(encoded: npt.ArrayLike, form: EmbeddingFormat, dim: int) -> Encoded:
    rows = np.asarray(encoded)
    width = bytes_per_embedding(form, dim)
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != width:
        raise InputError(f"{form} embeddings of {dim} dims are bytes (n, {width}); found {rows.dtype} of shape {rows.shape}")
    return rows


def _numbers(rows: Encoded, form: EmbeddingFormat, dim: int) -> FloatMatrix:
    if form == "int8":
        return rows[:, _SCALE_BYTES:].view(np.int8).astype(np.float32)  # the scale goes when the length is divided by
    contiguous = np.ascontiguousarray(rows)
    numbers: FloatMatrix = contiguous.view("<f4" if form == "float32" else "<f2").reshape(len(rows), dim).astype(np.float32)
    return numbers

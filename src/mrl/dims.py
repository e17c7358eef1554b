"""Defaults: the model that is used unless another is named, and the prefix lengths that are trained for or measured at."""

from __future__ import annotations

DEFAULT_MODEL = "mrl-b0-demo"
"""Comes with the package, so that a first result needs no network."""

DEFAULT_DIMS = (16, 32, 64, 128, 192, 256)
"""The length of the released models' embeddings (192) among powers of two."""

_LONGEST = 2**20


def default_dims(embed_dim: int) -> tuple[int, ...]:
    """Return the default lengths as far as ``embed_dim`` goes, ascending: :data:`DEFAULT_DIMS`, doubled from there, and all."""
    doubled = [2**power for power in range(9, _LONGEST.bit_length())]
    return tuple(sorted({*(dim for dim in (*DEFAULT_DIMS, *doubled) if dim <= embed_dim), embed_dim}))

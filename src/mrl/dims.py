"""Which prefix lengths a Matryoshka head is trained for unless told otherwise."""

from __future__ import annotations

DEFAULT_DIMS = (16, 32, 64, 128, 192, 256)


def default_mrl_dims(embed_dim: int) -> tuple[int, ...]:
    """Return the default lengths as far as ``embed_dim`` goes, ascending, the full one among them."""
    return tuple(sorted({*(dim for dim in DEFAULT_DIMS if dim <= embed_dim), embed_dim}))

"""One number for each prefix length, however the user gave them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mrl.errors import InputError

PerDim = Mapping[int, float] | Sequence[float]


def checked_loss_dims(dims: Iterable[int]) -> list[int]:
    """Return the lengths in the order given.

    Raises:
        InputError: there are none, or they are not distinct and positive.
    """
    given = list(dims)
    if not given or any(dim < 1 for dim in given) or len(set(given)) != len(given):
        raise InputError(f"dims={given} cannot be used; expected different positive prefix lengths")
    return given


def per_dim(values: PerDim | None, dims: Sequence[int], default: float, name: str) -> dict[int, float]:
    """Return the value of each length: from a mapping (others get the default) or a sequence in the order of ``dims``.

    Raises:
        InputError: a sequence of another length, or a mapping that names other lengths; ``name`` says of what.
    """
    if values is None:
        return dict.fromkeys(dims, default)
    if isinstance(values, Mapping):
        unknown = sorted(set(values) - set(dims))
        if unknown:
            raise InputError(f"{name} names the lengths {unknown}, which are not among dims={list(dims)}")
        return {dim: float(values.get(dim, default)) for dim in dims}
    if len(values) != len(dims):
        raise InputError(f"{name} has {len(values)} values for {len(dims)} dims; expected one for each of {list(dims)}")
    return {dim: float(value) for dim, value in zip(dims, values, strict=True)}


def normalised_weights(values: PerDim | None, dims: Sequence[int]) -> dict[int, float]:
    """Return the weight of each length in ascending order, summing to one.

    Raises:
        InputError: as :func:`per_dim`; a weight is negative or all are zero.
    """
    weights = per_dim(values, dims, 1.0, "dim_weights")
    total = sum(weights.values())
    if min(weights.values()) < 0 or not 0 < total < float("inf"):
        raise InputError(f"dim_weights={weights} cannot be used; expected weights of which none is negative and one positive")
    return {dim: weights[dim] / total for dim in sorted(weights)}

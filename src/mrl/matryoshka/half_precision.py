"""Weights in 16 bits for files that should be small; computing with them stays in 32 bits."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

_LARGEST_ERROR = 2.0**-10
"""Of a tensor's norm. Rounding numbers in float16's range to its 11 bits costs at most half of that."""


def in_half_precision(tensors: Mapping[str, Tensor], buffers: Collection[str]) -> dict[str, Tensor]:
    """Return float32 tensors in float16, except those that would lose by it.

    Left as they are: ``buffers`` (running means and variances, filter banks: small, and a running variance may be of any size),
    tensors with numbers beyond float16's largest (65,504), and tensors whose numbers are so small that float16 keeps few bits
    of them.

    Args:
        tensors: a model's state.
        buffers: the names in it that are no weights.
    """
    return {name: tensor if name in buffers else _halved(tensor) for name, tensor in tensors.items()}


def _halved(tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32:
        return tensor
    half = tensor.detach().half()
    error = torch.linalg.vector_norm(half.double() - tensor.detach().double())
    # Written so that infinities, which make the error infinite or NaN, fail it.
    fits = bool(error <= _LARGEST_ERROR * torch.linalg.vector_norm(tensor.detach().double()))
    return half if fits else tensor

"""A hash of weights that does not depend on the file they came from."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def state_sha256(module: nn.Module, *, without: str | None = None, as_cached_by_0_1: bool = False) -> str:
    """Return a hash of all weights and buffers with their names.

    Args:
        module: with the weights.
        without: leave out entries whose names begin with this.
        as_cached_by_0_1: write type and shape of an entry in the order in which training did it in version 0.1, which named its
            caches of pooled statistics by such a hash of its own.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if without is not None and name.startswith(without):
            continue
        facts = (str(tensor.dtype), str(tuple(tensor.shape)))
        digest.update(f"{name} {' '.join(reversed(facts) if as_cached_by_0_1 else facts)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

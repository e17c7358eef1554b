"""A hash of weights that does not depend on the file they came from."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def state_sha256(module: nn.Module, *, without: str | None = None) -> str:
    """Return a hash of all weights and buffers with their names, but for those whose names begin with ``without``."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if without is not None and name.startswith(without):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

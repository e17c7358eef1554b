"""The Matryoshka head: one affine map whose every prefix is an embedding of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mrl.errors import InputError
from mrl.matryoshka.affine import AffineMap


class MatryoshkaProjection(nn.Module):
    """Normalised pooled statistics ``(batch, inputs)`` -> raw embeddings ``(batch, embed_dim)``.

    The first ``target_dim`` numbers are the embedding of that length: a prefix needs only its own rows of the weight.
    Matryoshka representation learning: Kusupati et al., https://arxiv.org/abs/2205.13147.
    """

    def __init__(self, inputs: int, embed_dim: int) -> None:
        super().__init__()
        if embed_dim < 1:
            raise InputError(f"embed_dim={embed_dim} is not a length; expected a positive whole number")
        self.weight = nn.Parameter(torch.empty(embed_dim, inputs))
        self.bias = nn.Parameter(torch.zeros(embed_dim))
        nn.init.normal_(self.weight, std=inputs**-0.5)

    @property
    def inputs(self) -> int:
        return self.weight.shape[1]

    @property
    def embed_dim(self) -> int:
        return self.weight.shape[0]

    def forward(self, pooled: Tensor, target_dim: int | None = None) -> Tensor:
        """Return raw embeddings ``(batch, target_dim)``, not of unit length; all of them when ``target_dim`` is None.

        Raises:
            InputError: ``target_dim`` is not in 1..embed_dim.
        """
        if target_dim is None:
            return nn.functional.linear(pooled, self.weight, self.bias)
        self.check_dim(target_dim)
        return nn.functional.linear(pooled, self.weight[:target_dim], self.bias[:target_dim])

    def check_dim(self, target_dim: int) -> None:
        """Raise an InputError unless ``target_dim`` is a prefix length of this head."""
        if isinstance(target_dim, bool) or not isinstance(target_dim, int) or not 1 <= target_dim <= self.embed_dim:
            raise InputError(f"target_dim={target_dim!r} is not available; expected a whole number from 1 to {self.embed_dim}")

    @torch.no_grad()
    def assign(self, affine: AffineMap) -> None:
        """Take over an affine map with as many inputs; longer maps are cut, missing rows are zero.

        Raises:
            InputError: the map has another number of inputs.
        """
        if affine.inputs != self.inputs:
            raise InputError(f"the affine map has {affine.inputs} inputs; this head has {self.inputs}")
        fitted = affine.first(self.embed_dim)
        self.weight.copy_(fitted.weight)
        self.bias.copy_(fitted.bias)

    def as_affine(self) -> AffineMap:
        """Return the head as a float64 affine map (a copy)."""
        return AffineMap(self.weight.detach().double().cpu().clone(), self.bias.detach().double().cpu().clone())

    def extra_repr(self) -> str:
        return f"inputs={self.inputs}, embed_dim={self.embed_dim}"

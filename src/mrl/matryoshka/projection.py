"""The Matryoshka head: one affine map whose every prefix is an embedding of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrl.backbone import Backbone
from mrl.errors import InputError

# Affine maps: what the pretrained embedding layer is, what every closed-form head is, and what they are composed of.


@dataclass(frozen=True)
class AffineMap:
    """``y = weight x + bias``; weight ``(outputs, inputs)``, bias ``(outputs,)``."""

    weight: Tensor
    bias: Tensor

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.bias.shape != self.weight.shape[:1]:
            raise InputError(
                f"an affine map has a weight (outputs, inputs) and a bias (outputs,); "
                f"got {tuple(self.weight.shape)} and {tuple(self.bias.shape)}"
            )

    @property
    def inputs(self) -> int:
        return self.weight.shape[1]

    @property
    def outputs(self) -> int:
        return self.weight.shape[0]

    def __call__(self, vectors: Tensor) -> Tensor:
        """Map ``(batch, inputs)`` to ``(batch, outputs)``."""
        return nn.functional.linear(vectors, self.weight, self.bias)

    def then(self, after: AffineMap) -> AffineMap:
        """Return the map that applies this one first and ``after`` next."""
        return AffineMap(after.weight @ self.weight, after.weight @ self.bias + after.bias)

    def rotated(self, rotation: Tensor) -> AffineMap:
        """Return the map followed by a matrix ``(rows, outputs)`` with orthonormal rows."""
        return AffineMap(rotation @ self.weight, rotation @ self.bias)

    def stacked(self, below: AffineMap) -> AffineMap:
        """Return one map whose outputs are those of this map followed by those of ``below``."""
        return AffineMap(torch.cat([self.weight, below.weight]), torch.cat([self.bias, below.bias]))

    def first(self, outputs: int) -> AffineMap:
        """Return the map to the first ``outputs`` dimensions; where there are fewer, the rest are zero."""
        missing = outputs - self.outputs
        if missing <= 0:
            return AffineMap(self.weight[:outputs], self.bias[:outputs])
        return self.stacked(AffineMap(self.weight.new_zeros(missing, self.inputs), self.bias.new_zeros(missing)))


@torch.no_grad()
def pretrained_map(backbone: Backbone) -> AffineMap:
    """Return the pretrained embedding as one float64 affine map of the normalised pooled statistics.

    A BatchNorm after the embedding layer (official ``emb_bn``) is affine in eval mode and folded in.
    """
    weight = backbone.embedding.weight.detach().double().cpu()
    bias = backbone.embedding.bias.detach().double().cpu()
    norm = backbone.embedding_norm
    if norm is None:
        return AffineMap(weight.clone(), bias.clone())
    gain, shift = _batch_norm_affine(norm)
    return AffineMap(gain.unsqueeze(1) * weight, gain * bias + shift)


@torch.no_grad()
def assumed_pooled_covariance(backbone: Backbone) -> Tensor:
    """Return the diagonal ``(pooled_dim,)`` of the normalised pooled statistics' covariance that BatchNorm itself implies.

    BatchNorm divides by the training data's deviation and multiplies by its own gain, so without any data the best guess is
    uncorrelated statistics with the squared gains as variances.
    """
    return backbone.pooled_norm.weight.detach().double().cpu().square()


def _batch_norm_affine(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None  # the official network always tracks statistics
    gain = norm.weight.detach().double().cpu() / (variance.double().cpu() + norm.eps).sqrt()
    return gain, norm.bias.detach().double().cpu() - gain * mean.double().cpu()


class MatryoshkaProjection(nn.Module):
    """Normalised pooled statistics ``(batch, inputs)`` -> raw embeddings ``(batch, embed_dim)``.

    The first ``target_dim`` dimensions are the embedding of that length: a prefix needs only its own rows of the weight.
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

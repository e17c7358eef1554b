"""Affine maps: what the pretrained embedding layer is, what every closed-form head is, and what they are composed of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mrl.backbone import ReDimNet
from mrl.errors import InputError


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
        """Return the map to the first ``outputs`` numbers; where there are fewer, the rest are zero."""
        missing = outputs - self.outputs
        if missing <= 0:
            return AffineMap(self.weight[:outputs], self.bias[:outputs])
        return self.stacked(AffineMap(self.weight.new_zeros(missing, self.inputs), self.bias.new_zeros(missing)))


@torch.no_grad()
def pretrained_map(backbone: ReDimNet) -> AffineMap:
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
def assumed_pooled_covariance(backbone: ReDimNet) -> Tensor:
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

"""Directions of the pooled statistics that the pretrained embedding discards, for the numbers beyond its own length.

The pretrained layer keeps 192 of some thousand directions. Of the rest, those are taken that tell speakers apart best once the
noise that they share with the embedding is removed (residual LDA), at the largest scale that does no harm on speakers held out.
Where all do harm, the scale is zero and the longer embedding scores as the shorter one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mrl.matryoshka.affine import AffineMap
from mrl.matryoshka.scatter import class_index, discriminant_directions, scatter_of

_SCALES = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
_FOLDS = 3
# The largest scale that costs no more than this share of the best separation is taken: the backbone has often been trained on the
# very speakers at hand, so that its embedding looks better on them, and what it discards less useful, than on new ones.
_TOLERANCE = 0.01
# Enough for a stable choice of one number; the pairs grow with the square.
_MOST_UTTERANCES = 3000


def with_residual_directions(
    head: AffineMap, base: AffineMap, features: Tensor, labels: Tensor, embed_dim: int, shrinkage: float
) -> AffineMap:
    """Extend ``head`` (a map of ``features``) to ``embed_dim`` outputs by residual directions of ``features``.

    Args:
        head: the head so far, with fewer than ``embed_dim`` outputs.
        base: the pretrained embedding, whose directions are not taken again.
        features: ``(utterances, feature_dim)``.
        labels: ``(utterances,)`` speakers.
        embed_dim: outputs of the extended head.
        shrinkage: of the within-speaker covariance, 0 to 1.
    """
    count = min(embed_dim - head.outputs, base.inputs - base.outputs)
    # The directions that the base does not see, as an orthonormal basis.
    hidden = torch.linalg.svd(base.weight, full_matrices=True).Vh[base.outputs :]
    labels = class_index(labels)[0]
    gains = torch.zeros(len(_SCALES), dtype=features.dtype)
    for fold in range(_FOLDS):
        held_out = labels % _FOLDS == fold
        residual = _residual(base, hidden, features[~held_out], labels[~held_out], count, shrinkage)
        test, test_labels = features[held_out][:_MOST_UTTERANCES], labels[held_out][:_MOST_UTTERANCES]
        own, extra = head(test), _at_scale_of(head, residual, features[~held_out])(test)
        for index, scale in enumerate(_SCALES):
            gains[index] += separation(torch.cat([own, scale * extra], dim=1), test_labels)
    least = gains.max() - _TOLERANCE * gains.max().abs()
    best = max(scale for scale, gain in zip(_SCALES, gains.tolist(), strict=True) if gain >= least)
    residual = _at_scale_of(head, _residual(base, hidden, features, labels, count, shrinkage), features)
    return head.stacked(AffineMap(best * residual.weight, best * residual.bias))


def separation(vectors: Tensor, labels: Tensor) -> Tensor:
    """Return d-prime of the cosines of all pairs: distance of same- and different-speaker means in pooled deviations."""
    unit = functional.normalize(vectors, dim=1)
    rows, columns = torch.triu_indices(len(unit), len(unit), offset=1)
    cosines = (unit @ unit.T)[rows, columns]
    same = labels[rows] == labels[columns]
    target, other = cosines[same], cosines[~same]
    if len(target) < 2 or len(other) < 2:
        return cosines.new_zeros(())
    deviation = ((target.var() + other.var()) / 2).sqrt()
    return (target.mean() - other.mean()) / deviation.clamp(min=torch.finfo(cosines.dtype).tiny)


def _residual(base: AffineMap, hidden: Tensor, features: Tensor, labels: Tensor, count: int, shrinkage: float) -> AffineMap:
    seen = base.weight
    both = scatter_of(features, labels)
    within_seen = seen @ both.within @ seen.T
    ridge = shrinkage * within_seen.diagonal().mean() * torch.eye(len(within_seen), dtype=features.dtype)
    # What the hidden directions share with the embedding's own noise is predicted from it and taken away.
    predicted = torch.linalg.solve(within_seen + ridge, seen @ both.within @ hidden.T).T
    weight = hidden - predicted @ seen
    bias = -(weight @ both.mean)
    directions = discriminant_directions(scatter_of(functional.linear(features, weight, bias), labels), shrinkage)[:count]
    return AffineMap(directions @ weight, directions @ bias)


def _at_scale_of(head: AffineMap, residual: AffineMap, features: Tensor) -> AffineMap:
    """Scale the residual so that its first direction has the deviation of the head's mean direction."""
    reference = head(features).std(dim=0).square().mean().sqrt()
    first = residual(features).std(dim=0)[0]
    factor = reference / first.clamp(min=torch.finfo(features.dtype).tiny)
    return AffineMap(residual.weight * factor, residual.bias * factor)

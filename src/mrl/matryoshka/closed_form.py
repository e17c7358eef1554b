"""Matryoshka heads without gradient descent: rotations, PCA and LDA, in seconds.

Cosines do not change under a rotation, so a rotated pretrained embedding scores every trial as before at full length, while the
order of its directions decides how good its prefixes are. See docs/matryoshka-head.md for the mathematics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from mrl.backbone import ReDimNet
from mrl.errors import InputError
from mrl.matryoshka.projection import AffineMap, assumed_pooled_covariance, pretrained_map

# Between- and within-speaker covariance, and the directions that tell speakers apart (linear discriminant analysis).


@dataclass(frozen=True)
class Scatter:
    """Mean ``(features,)`` and covariances ``(features, features)`` of labelled vectors, every speaker with the same weight."""

    mean: Tensor
    within: Tensor
    between: Tensor


def class_index(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return each utterance's speaker number ``(utterances,)``, counted from 0, and each speaker's utterances ``(speakers,)``."""
    _, index, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    return index, counts


def scatter_of(vectors: Tensor, labels: Tensor) -> Scatter:
    """Compute the scatter of vectors ``(utterances, features)`` with labels ``(utterances,)``.

    The between-speaker covariance is corrected for the noise that speaker means of few utterances carry. Speakers with a single
    utterance say nothing of the spread within a speaker and are left out of it.
    """
    index, counts = class_index(labels)
    sums = torch.zeros(len(counts), vectors.shape[1], dtype=vectors.dtype).index_add_(0, index, vectors)
    means = sums / counts.unsqueeze(1)
    centred = vectors - means[index]
    several = counts > 1
    weights = torch.where(several, 1.0 / (counts - 1).clamp(min=1), 0.0).to(vectors.dtype) / several.sum()
    within = (centred * weights[index].unsqueeze(1)).T @ centred
    mean = means.mean(dim=0)
    spread = means - mean
    between = spread.T @ spread / (len(counts) - 1) - within * (1.0 / counts).mean()
    return Scatter(mean, within, between)


def whitener(within: Tensor, shrinkage: float) -> Tensor:
    """Return a symmetric matrix that turns the within-speaker covariance, shrunk towards its mean variance, into the identity."""
    size = within.shape[0]
    floor = within.diagonal().mean()
    values, vectors = torch.linalg.eigh((1.0 - shrinkage) * within + shrinkage * floor * torch.eye(size, dtype=within.dtype))
    smallest = torch.finfo(within.dtype).eps * values.max().clamp(min=torch.finfo(within.dtype).tiny)
    white: Tensor = (vectors * values.clamp(min=smallest).rsqrt()) @ vectors.T
    return white


def discriminant_directions(scatter: Scatter, shrinkage: float) -> Tensor:
    """Return LDA directions as rows ``(features, features)``, the most discriminating first, unit variance within speakers."""
    white = whitener(scatter.within, shrinkage)
    directions: Tensor = principal_directions(white @ scatter.between @ white) @ white
    return directions


def principal_directions(covariance: Tensor) -> Tensor:
    """Return the eigenvectors of a symmetric matrix as rows, the largest eigenvalue first, each with a sign that is fixed."""
    directions = torch.linalg.eigh(covariance).eigenvectors.flip(1).T
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    signed: Tensor = directions * largest.sign()
    return signed


# Directions of the pooled statistics that the pretrained embedding discards, for the numbers beyond its own length.
#
# The pretrained layer keeps 192 of some thousand directions. Of the rest, those are taken that tell speakers apart best once
# the noise that they share with the embedding is removed (residual LDA), at the largest scale that does no harm on speakers
# held out. Where all do harm, the scale is zero and the longer embedding scores as the shorter one.


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


Method = Literal["rotation", "uncentred", "pca", "lda"]


METHODS: tuple[Method, ...] = ("rotation", "uncentred", "pca", "lda")


def data_free_rotation(backbone: ReDimNet) -> AffineMap:
    """Return the pretrained embedding rotated so that its variance comes first, from the weights alone.

    BatchNorm makes the pooled statistics nearly white up to its own gains, so the embedding's covariance is close to
    ``W diag(gain^2) W^T``; its eigenvectors are the rotation.
    """
    base = pretrained_map(backbone)
    covariance = (base.weight * assumed_pooled_covariance(backbone)) @ base.weight.T
    return base.rotated(principal_directions(covariance))


def fit_projection(
    features: Tensor,
    labels: Tensor | None = None,
    *,
    method: Method = "rotation",
    embed_dim: int = 256,
    base: AffineMap | None = None,
    shrinkage: float = 0.7,
) -> AffineMap:
    """Fit a head in closed form.

    Args:
        features: ``(utterances, feature_dim)``: normalised pooled statistics, or the embeddings of any toolkit.
        labels: ``(utterances,)`` speakers; needed for ``"lda"``, used by ``"rotation"`` where given.
        method: ``"rotation"``: the base embedding rotated (cosines at its full length unchanged), ordered by how well directions
            tell speakers apart, or by variance without labels. ``"uncentred"``: rotated, too, ordered by what directions hold of
            the embeddings at unit length, so that prefix cosines come nearest to those of the full length; takes no labels.
            ``"pca"``: centred, ordered by variance. ``"lda"``: centred,
            within-speaker covariance whitened, ordered by discrimination; changes the cosines at every length.
        embed_dim: outputs of the head. What goes beyond the base embedding is taken from directions of ``features`` that the base
            discards (by LDA, at the scale that helps on held-out speakers) where there are labels, and is zero otherwise.
        base: the pretrained embedding as a map of ``features``; None: the features themselves.
        shrinkage: share of the within-speaker covariance that is replaced by its mean variance (0 to 1). A few hundred speakers
            say little of small variances; the default was chosen on so762-child (docs/results.md).

    Returns:
        The head, ``feature_dim`` -> ``embed_dim``, float64.

    Raises:
        InputError: shapes, labels or numbers that cannot be used.
    """
    features, labels = _checked(features, labels, method, shrinkage)
    if base is None:
        base = AffineMap(torch.eye(features.shape[1], dtype=torch.float64), torch.zeros(features.shape[1], dtype=torch.float64))
    if base.inputs != features.shape[1]:
        raise InputError(f"features have {features.shape[1]} numbers, the base embedding takes {base.inputs}")
    embeddings = base(features)
    if method == "uncentred":
        head = _uncentred(embeddings, base)
    elif method == "pca":
        head = _pca(embeddings, base)
    elif method == "lda":
        assert labels is not None  # checked above
        head = _lda(embeddings, labels, base, shrinkage)
    else:
        head = _rotation(embeddings, labels, base)
    if embed_dim > head.outputs and labels is not None and base.outputs < base.inputs:
        head = with_residual_directions(head, base, features, labels, embed_dim, shrinkage)
    return head.first(embed_dim)


def _uncentred(embeddings: Tensor, base: AffineMap) -> AffineMap:
    # The cosines of all pairs are the products of the unit vectors; the projection to the leading eigenvectors of the second
    # moments keeps these products best (Eckart and Young). Centring would change what is compared.
    unit = functional.normalize(embeddings, dim=1)
    return base.rotated(principal_directions(unit.T @ unit / len(unit)))


def _pca(embeddings: Tensor, base: AffineMap) -> AffineMap:
    mean = embeddings.mean(dim=0)
    centred = embeddings - mean
    rotation = principal_directions(centred.T @ centred / len(centred))
    return AffineMap(base.weight, base.bias - mean).rotated(rotation)


def _lda(embeddings: Tensor, labels: Tensor, base: AffineMap, shrinkage: float) -> AffineMap:
    scatter = scatter_of(embeddings, labels)
    return AffineMap(base.weight, base.bias - scatter.mean).rotated(discriminant_directions(scatter, shrinkage))


def _rotation(embeddings: Tensor, labels: Tensor | None, base: AffineMap) -> AffineMap:
    if labels is None:
        centred = embeddings - embeddings.mean(dim=0)
        return base.rotated(principal_directions(centred.T @ centred / len(centred)))
    return base.rotated(principal_directions(_discrimination(scatter_of(embeddings, labels))))


def _discrimination(scatter: Scatter) -> Tensor:
    return scatter.between


def _checked(features: Tensor, labels: Tensor | None, method: str, shrinkage: float) -> tuple[Tensor, Tensor | None]:
    if method not in METHODS:
        raise InputError(f"method={method!r} is unknown; expected one of {', '.join(METHODS)}")
    if features.ndim != 2 or len(features) < 2:
        raise InputError(
            f"features have the shape {tuple(features.shape)}; expected (utterances, feature_dim) with 2 or more utterances"
        )
    if not torch.isfinite(features).all():
        raise InputError("features hold NaN or infinite numbers; find the recordings they come from")
    if not 0.0 <= shrinkage <= 1.0:
        raise InputError(f"shrinkage={shrinkage} cannot be used; expected a number from 0 to 1")
    if labels is None:
        if method == "lda":
            raise InputError("method='lda' needs speaker labels; without them use 'rotation' or 'pca'")
        return features.double().cpu(), None
    labels = torch.as_tensor(labels).cpu()
    if labels.shape != features.shape[:1]:
        raise InputError(f"{len(features)} utterances have labels of the shape {tuple(labels.shape)}; expected one label each")
    speakers = len(class_index(labels)[1])
    if speakers < 2 or speakers == len(labels):
        raise InputError(
            f"{len(labels)} utterances of {speakers} speakers cannot show what tells speakers apart; "
            "expected at least two speakers and several utterances of some"
        )
    return features.double().cpu(), labels

"""Matryoshka heads without gradient descent: rotations, PCA and LDA, in seconds.

Cosines do not change under a rotation, so a rotated pretrained embedding scores every trial as before at full length, while the
order of its directions decides how good its prefixes are. See docs/matryoshka-head.md for the mathematics.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mrl.backbone import ReDimNet
from mrl.errors import InputError
from mrl.matryoshka.affine import AffineMap, assumed_pooled_covariance, pretrained_map
from mrl.matryoshka.residual import with_residual_directions
from mrl.matryoshka.scatter import Scatter, class_index, discriminant_directions, principal_directions, scatter_of

Method = Literal["rotation", "pca", "lda"]
METHODS: tuple[Method, ...] = ("rotation", "pca", "lda")


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
            tell speakers apart, or by variance without labels. ``"pca"``: centred, ordered by variance. ``"lda"``: centred,
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
    if method == "pca":
        head = _pca(embeddings, base)
    elif method == "lda":
        assert labels is not None  # checked above
        head = _lda(embeddings, labels, base, shrinkage)
    else:
        head = _rotation(embeddings, labels, base)
    if embed_dim > head.outputs and labels is not None and base.outputs < base.inputs:
        head = with_residual_directions(head, base, features, labels, embed_dim, shrinkage)
    return head.first(embed_dim)


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

"""Matryoshka heads without gradient descent: rotations, PCA and LDA, in seconds.

Cosines do not change under a rotation, so a rotated pretrained embedding scores every trial as before at full length, while the
order of its directions decides how good its prefixes are. See docs/explanation/matryoshka-head.md for the mathematics.
"""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from mrl.backbone import Backbone
from mrl.errors import InputError
from mrl.matryoshka.projection import AffineMap, assumed_pooled_covariance, pretrained_map

# Between- and within-speaker covariance, and the directions that tell speakers apart (linear discriminant analysis).


@dataclass(frozen=True)
class Scatter:
    """Mean ``(features,)`` and covariances ``(features, features)`` of labelled vectors, every speaker with the same weight."""

    mean: Tensor
    within: Tensor
    between: Tensor

    def mapped(self, affine: AffineMap) -> Scatter:
        """Return the scatter of what an affine map makes of the vectors."""
        weight = affine.weight
        return Scatter(affine(self.mean), weight @ self.within @ weight.T, weight @ self.between @ weight.T)


def class_index(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return each utterance's speaker number ``(utterances,)``, counted from 0, and each speaker's utterances ``(speakers,)``."""
    _, index, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    return index, counts


class Moments:
    """Sums over vectors ``(utterances, features)`` from which their scatter and covariance follow, however many there are.

    Args:
        features: length of the vectors.
    """

    def __init__(self, features: int) -> None:
        self.features = features
        self.utterances = self.speakers = self.speakers_with_several = 0
        self.inverse_counts = 0.0
        self._sum, self._sum_of_means = (torch.zeros(features, dtype=torch.float64) for _ in range(2))
        self._products, self._within, self._products_of_means = (
            torch.zeros(features, features, dtype=torch.float64) for _ in range(3)
        )

    def add(self, vectors: Tensor, labels: Tensor | None = None) -> None:
        """Take in a block of float64 vectors, with labels all of each of its speakers at once."""
        self.utterances += len(vectors)
        self._sum += vectors.sum(dim=0)
        self._products.addmm_(vectors.T, vectors)
        if labels is None:
            return
        index, counts = class_index(labels)
        means = torch.zeros(len(counts), vectors.shape[1], dtype=vectors.dtype).index_add_(0, index, vectors)
        means /= counts.unsqueeze(1)
        centred = vectors - means[index]
        weights = torch.where(counts > 1, 1.0 / (counts - 1).clamp(min=1), 0.0).to(vectors.dtype)
        self._within.addmm_((centred * weights[index].unsqueeze(1)).T, centred)
        self._sum_of_means += means.sum(dim=0)
        self._products_of_means.addmm_(means.T, means)
        self.speakers += len(counts)
        self.speakers_with_several += int((counts > 1).sum())
        self.inverse_counts += float((1.0 / counts.double()).sum())

    def __add__(self, other: Moments) -> Moments:
        total = copy.copy(self)
        for name, value in vars(other).items():
            if name != "features":
                setattr(total, name, getattr(self, name) + value)
        return total

    def scatter(self) -> Scatter:
        """Return the scatter of what was added with labels.

        The between-speaker covariance is corrected for the noise that speaker means of few utterances carry. Speakers with a
        single utterance say nothing of the spread within a speaker and are left out of it.
        """
        within = self._within / self.speakers_with_several
        mean = self._sum_of_means / self.speakers
        spread = self._products_of_means - self.speakers * torch.outer(mean, mean)
        between = spread / (self.speakers - 1) - within * (self.inverse_counts / self.speakers)
        return Scatter(mean, within, between)

    def mean(self) -> Tensor:
        """Return the mean of all vectors."""
        return self._sum / self.utterances

    def covariance(self, *, corrected: bool = False) -> Tensor:
        """Return the covariance of all vectors, divided by their number, or by one less (``corrected``)."""
        mean = self.mean()
        return (self._products - self.utterances * torch.outer(mean, mean)) / (self.utterances - corrected)


def scatter_of(vectors: Tensor, labels: Tensor) -> Scatter:
    """Return the scatter of vectors ``(utterances, features)`` with labels ``(utterances,)``, see :meth:`Moments.scatter`."""
    moments = Moments(vectors.shape[1])
    moments.add(vectors.double(), labels)
    return moments.scatter()


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


# Directions of the pooled statistics that the pretrained embedding discards, for dimensions beyond its own length.
#
# The pretrained layer keeps 192 of some thousand directions. Of the rest, those are taken that tell speakers apart best once
# the noise that they share with the embedding is removed (residual LDA), at the largest scale that does no harm on held-out
# speakers. Where all do harm, the scale is zero and the longer embedding scores as the shorter one.


_SCALES = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)


_FOLDS = 3


# The largest scale that costs no more than this share of the best separation is taken: the backbone has often been trained on the
# very speakers at hand, so that its embedding looks better on them, and what it discards less useful, than on new ones.
_TOLERANCE = 0.01


# Enough for a stable choice of one number; the pairs grow with the square.
_MOST_UTTERANCES = 3000


def _with_residual_directions(
    head: AffineMap, base: AffineMap, folds: Sequence[_Fold], embed_dim: int, shrinkage: float
) -> AffineMap:
    """Extend ``head`` (a map of the features) to ``embed_dim`` outputs by residual directions.

    Args:
        head: the head so far, with fewer than ``embed_dim`` outputs.
        base: the pretrained embedding, whose directions are not taken again.
        folds: the features, by speakers.
        embed_dim: outputs of the extended head.
        shrinkage: of the within-speaker covariance, 0 to 1.
    """
    count = min(embed_dim - head.outputs, base.inputs - base.outputs)
    # The directions that the base does not see, as an orthonormal basis.
    hidden = torch.linalg.svd(base.weight, full_matrices=True).Vh[base.outputs :]
    gains = torch.zeros(len(_SCALES), dtype=torch.float64)
    for held_out in folds:
        others = _together([fold for fold in folds if fold is not held_out])
        extra = _at_scale_of(head, _residual(base, hidden, others, count, shrinkage), others)
        test, test_labels = held_out.sample()
        own, added = head(test), extra(test)
        for index, scale in enumerate(_SCALES):
            gains[index] += separation(torch.cat([own, scale * added], dim=1), test_labels)
    least = gains.max() - _TOLERANCE * gains.max().abs()
    best = max(scale for scale, gain in zip(_SCALES, gains.tolist(), strict=True) if gain >= least)
    everything = _together(folds)
    residual = _at_scale_of(head, _residual(base, hidden, everything, count, shrinkage), everything)
    return head.stacked(AffineMap(best * residual.weight, best * residual.bias))


class _Fold:
    """A third of the speakers: moments, and a few utterances to test on."""

    def __init__(self, features: int) -> None:
        self.moments = Moments(features)
        self._vectors: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._kept = 0

    def add(self, vectors: Tensor, labels: Tensor) -> None:
        self.moments.add(vectors, labels)
        room = _MOST_UTTERANCES - self._kept
        if room > 0:
            self._vectors.append(vectors[:room].clone())
            self._labels.append(labels[:room].clone())
            self._kept += len(self._labels[-1])

    def sample(self) -> tuple[Tensor, Tensor]:
        """Return vectors and labels of the first utterances."""
        empty = torch.empty(0, self.moments.features, dtype=torch.float64), torch.empty(0, dtype=torch.int64)
        return torch.cat([*self._vectors, empty[0]]), torch.cat([*self._labels, empty[1]])


def _together(folds: Sequence[_Fold]) -> Moments:
    return functools.reduce(operator.add, (fold.moments for fold in folds))


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


def _residual(base: AffineMap, hidden: Tensor, moments: Moments, count: int, shrinkage: float) -> AffineMap:
    seen = base.weight
    both = moments.scatter()
    within_seen = seen @ both.within @ seen.T
    ridge = shrinkage * within_seen.diagonal().mean() * torch.eye(len(within_seen), dtype=seen.dtype)
    # What the hidden directions share with the embedding's own noise is predicted from it and taken away.
    predicted = torch.linalg.solve(within_seen + ridge, seen @ both.within @ hidden.T).T
    weight = hidden - predicted @ seen
    cleaned = AffineMap(weight, -(weight @ both.mean))
    return cleaned.rotated(discriminant_directions(both.mapped(cleaned), shrinkage)[:count])


def _at_scale_of(head: AffineMap, residual: AffineMap, moments: Moments) -> AffineMap:
    """Scale the residual so that its first direction has the deviation of the head's mean direction."""
    covariance = moments.covariance(corrected=True)
    reference = ((head.weight @ covariance) * head.weight).sum(dim=1).mean().clamp(min=0.0).sqrt()
    first = (residual.weight[0] @ covariance @ residual.weight[0]).clamp(min=0.0).sqrt()
    factor = reference / first.clamp(min=torch.finfo(covariance.dtype).tiny)
    return AffineMap(residual.weight * factor, residual.bias * factor)


Method = Literal["rotation", "uncentred", "pca", "lda"]


METHODS: tuple[Method, ...] = ("rotation", "uncentred", "pca", "lda")


def data_free_rotation(backbone: Backbone) -> AffineMap:
    """Return the pretrained embedding rotated so that its variance comes first, from the weights alone.

    BatchNorm makes the pooled statistics nearly white up to its own gains, so the embedding's covariance is close to
    ``W diag(gain^2) W^T``; its eigenvectors are the rotation.
    """
    base = pretrained_map(backbone)
    covariance = (base.weight * assumed_pooled_covariance(backbone)) @ base.weight.T
    return base.rotated(principal_directions(covariance))


class ProjectionFit:
    """Fits a head in closed form to features that come block by block, in memory that does not depend on how many there are.

    Args:
        feature_dim: length of the features.
        method, embed_dim, base, shrinkage: as for :func:`fit_projection`.
        labelled: whether blocks come with labels.

    Raises:
        InputError: an option that cannot be used.
    """

    def __init__(
        self,
        feature_dim: int,
        *,
        method: Method = "rotation",
        embed_dim: int = 256,
        base: AffineMap | None = None,
        shrinkage: float = 0.7,
        labelled: bool = True,
    ) -> None:
        if method not in METHODS:
            raise InputError(f"method={method!r} is unknown; expected one of {', '.join(METHODS)}")
        if not 0.0 <= shrinkage <= 1.0:
            raise InputError(f"shrinkage={shrinkage} cannot be used; expected a number from 0 to 1")
        if method == "lda" and not labelled:
            raise InputError("method='lda' needs speaker labels; without them use 'rotation' or 'pca'")
        if base is None:
            base = AffineMap(torch.eye(feature_dim, dtype=torch.float64), torch.zeros(feature_dim, dtype=torch.float64))
        if base.inputs != feature_dim:
            raise InputError(f"features have {feature_dim} dimensions, the base embedding takes {base.inputs}")
        self._method, self._embed_dim, self._base, self._shrinkage = method, embed_dim, base, shrinkage
        self._labelled = labelled
        # Beyond the base embedding the features themselves count; else the embeddings are all that has to be looked at.
        self._extends = labelled and embed_dim > base.outputs and base.outputs < base.inputs
        size = base.inputs if self._extends else base.outputs
        self._folds = [_Fold(size) for _ in range(_FOLDS)] if self._extends else []
        self._moments = Moments(size)
        self._of_unit_vectors = torch.zeros(base.outputs, base.outputs, dtype=torch.float64)
        self._speakers = 0

    @property
    def bytes_held(self) -> int:
        """Memory for the sums, in bytes."""
        size = self._base.inputs if self._extends else self._base.outputs
        sample = _MOST_UTTERANCES * size * len(self._folds)
        return 8 * (3 * size * size * (len(self._folds) or 1) + sample)

    @property
    def operations_per_utterance(self) -> int:
        """Floating-point operations that an utterance takes, about."""
        size = self._base.inputs if self._extends else self._base.outputs
        return 2 * 3 * size * size + (0 if self._extends else 2 * self._base.inputs * size)

    def add(self, features: Tensor, labels: Tensor | None = None) -> None:
        """Take in ``(utterances, feature_dim)``, with labels ``(utterances,)`` all utterances of each of their speakers.

        Raises:
            InputError: shapes, labels or values that cannot be used.
        """
        if features.ndim != 2 or features.shape[1] != self._base.inputs:
            raise InputError(f"features have the shape {tuple(features.shape)}; expected (utterances, {self._base.inputs})")
        if not torch.isfinite(features).all():
            raise InputError("features hold NaN or infinite values; find the recordings they come from")
        vectors = features.double().cpu()
        if self._method == "uncentred":
            unit = functional.normalize(self._base(vectors), dim=1)
            self._of_unit_vectors += unit.T @ unit
        if labels is None:
            self._moments.add(vectors if self._extends else self._base(vectors))
            return
        if labels.shape != features.shape[:1]:
            raise InputError(
                f"{len(features)} utterances have labels of the shape {tuple(labels.shape)}; expected one label each"
            )
        numbers, counts = class_index(labels.cpu())
        numbers = numbers + self._speakers
        self._speakers += len(counts)
        if not self._extends:
            self._moments.add(self._base(vectors), numbers)
            return
        for place, fold in enumerate(self._folds):
            mine = numbers % _FOLDS == place
            if mine.any():
                fold.add(vectors[mine], numbers[mine])

    def result(self) -> AffineMap:
        """Return the head, ``feature_dim`` -> ``embed_dim``, float64.

        Raises:
            InputError: too few utterances or speakers were added.
        """
        moments = _together(self._folds) if self._extends else self._moments
        if moments.utterances < 2:
            raise InputError(f"{moments.utterances} utterances are too few for a head; expected 2 or more")
        if self._labelled and (moments.speakers < 2 or not moments.speakers_with_several):
            raise InputError(
                f"{moments.utterances} utterances of {moments.speakers} speakers cannot show what tells speakers apart; "
                "expected at least two speakers and several utterances of some"
            )
        head = self._rotated(moments)
        if self._extends:
            head = _with_residual_directions(head, self._base, self._folds, self._embed_dim, self._shrinkage)
        return head.first(self._embed_dim)

    def _rotated(self, moments: Moments) -> AffineMap:
        """The base embedding rotated (or, for LDA, also scaled), as the method says."""
        base = self._base
        if self._method == "uncentred":
            # The cosines of all pairs are the products of the unit vectors; the projection to the leading eigenvectors of the
            # second moments keeps these products best (Eckart and Young). Centring would change what is compared.
            return base.rotated(principal_directions(self._of_unit_vectors))
        embed = base if self._extends else None  # whether moments are of the features or of the embeddings
        if self._labelled and self._method != "pca":
            scatter = moments.scatter() if embed is None else moments.scatter().mapped(embed)
            if self._method == "rotation":
                return base.rotated(principal_directions(scatter.between))
            return AffineMap(base.weight, base.bias - scatter.mean).rotated(discriminant_directions(scatter, self._shrinkage))
        covariance = moments.covariance() if embed is None else embed.weight @ moments.covariance() @ embed.weight.T
        rotation = principal_directions(covariance)
        if self._method == "rotation":
            return base.rotated(rotation)
        mean = moments.mean() if embed is None else embed(moments.mean())
        return AffineMap(base.weight, base.bias - mean).rotated(rotation)


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
            the embeddings at unit length, so that prefix cosines come nearest to those of the full length; needs no labels.
            ``"pca"``: centred, ordered by variance. ``"lda"``: centred,
            within-speaker covariance whitened, ordered by discrimination; changes the cosines at every length.
        embed_dim: outputs of the head. What goes beyond the base embedding is taken from directions of ``features`` that the base
            discards (by LDA, at the scale that helps on held-out speakers) where there are labels, and is zero otherwise.
        base: the pretrained embedding as a map of ``features``; None: the features themselves.
        shrinkage: share of the within-speaker covariance that is replaced by its mean variance (0 to 1). A few hundred speakers
            say little of small variances; the default was chosen on so762-child (docs/appendix/results.md).

    Returns:
        The head, ``feature_dim`` -> ``embed_dim``, float64.

    Raises:
        InputError: shapes, labels or values that cannot be used.
    """
    if features.ndim != 2 or len(features) < 2:
        raise InputError(
            f"features have the shape {tuple(features.shape)}; expected (utterances, feature_dim) with 2 or more utterances"
        )
    fit = ProjectionFit(
        features.shape[1], method=method, embed_dim=embed_dim, base=base, shrinkage=shrinkage, labelled=labels is not None
    )
    fit.add(features, None if labels is None else torch.as_tensor(labels))
    return fit.result()

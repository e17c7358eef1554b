"""What the losses that have a vector for each training speaker ask of the cosines between embeddings and these vectors.

Each objective gives its gradient in closed form beside its value: the matrices are large (batch times speakers, for every prefix
length), and so each length takes a handful of passes over them instead of a dozen or two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from mrl.errors import InputError
from mrl.matryoshka.objectives import chosen

# Angular margins, in radians: how far an embedding must lie inside its own class before the loss is satisfied. Each function
# returns the moved cosines with their slopes (the derivative by the cosines), for losses that give their own gradient.


DEFAULT_MARGIN = 0.2


_COSINE_LIMIT = 1.0 - 1e-7


def lowered(cosines: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Enlarge the angle by ``margin``: ``cos(angle + margin)``, for the embedding's own class (ArcFace, arXiv 1801.07698).

    Beyond an angle of ``pi - margin`` the result keeps falling linearly, so that the gradient never turns back.

    Returns:
        The moved cosines and their slopes, of the shape of ``cosines``.
    """
    if margin == 0.0:
        return cosines, torch.ones_like(cosines)
    inside, sine, moves = _clamped(cosines)
    cosine_of_margin, sine_of_margin = math.cos(margin), math.sin(margin)
    turns = cosines <= math.cos(math.pi - margin)
    moved = torch.where(turns, cosines - sine_of_margin * margin, inside * cosine_of_margin - sine * sine_of_margin)
    slopes = torch.where(turns, 1.0, moves * (cosine_of_margin + inside / sine * sine_of_margin))
    return moved, slopes


def raised(cosines: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Diminish the angle by ``margin``: ``cos(angle - margin)``, for the classes of others.

    At angles below ``margin`` the result keeps rising linearly: a class of another speaker that lies on the embedding itself
    must still be pushed away.

    Returns:
        The moved cosines and their slopes, of the shape of ``cosines``.
    """
    if margin == 0.0:
        return cosines, torch.ones_like(cosines)
    inside, sine, moves = _clamped(cosines)
    cosine_of_margin, sine_of_margin = math.cos(margin), math.sin(margin)
    turns = cosines >= cosine_of_margin
    moved = torch.where(turns, cosines + (1.0 - cosine_of_margin), inside * cosine_of_margin + sine * sine_of_margin)
    slopes = torch.where(turns, 1.0, moves * (cosine_of_margin - inside / sine * sine_of_margin))
    return moved, slopes


def _clamped(cosines: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines kept off 1 and -1, where the slope has no bound; their sines; and 1 where they were not touched, else 0."""
    inside = cosines.clamp(-_COSINE_LIMIT, _COSINE_LIMIT)
    return inside, (1.0 - inside.square()).sqrt(), (inside == cosines).to(cosines.dtype)


@dataclass(frozen=True)
class ObjectiveValue:
    """What an objective says of a matrix of cosines.

    Attributes:
        loss: mean over the batch, scalar.
        accuracy: share of utterances whose nearest class is their own, without margin; ties do not count.
        gradient: ``(batch, classes)``; times ``row_factor`` it is the derivative of ``loss`` by the cosines.
        row_factor: ``(batch, 1)``.
        bias_gradient: derivative by the objective's bias, scalar; None where it has none.
    """

    loss: Tensor
    accuracy: Tensor
    gradient: Tensor
    row_factor: Tensor
    bias_gradient: Tensor | None = None


class ClassObjective(Protocol):
    """A loss on cosines to classes; see :mod:`mrl.matryoshka.objectives` for what it may have besides these two methods."""

    def evaluate(self, cosines: Tensor, labels: Tensor, margin: float, bias: Tensor | None) -> ObjectiveValue:
        """Return value and gradient for cosines ``(batch, classes)``, which are left as they were, and labels ``(batch,)``."""
        ...

    def uninformed_loss(self, num_classes: int, margin: float) -> float:
        """Return the loss of embeddings orthogonal to every class: what a head that has learnt nothing gives."""
        ...


@dataclass(frozen=True)
class MarginSoftmax:
    """AAM-Softmax (ArcFace, arXiv 1801.07698), optionally with the inter-top-k penalty (arXiv 2110.05042).

    Attributes:
        scale: what cosines are multiplied by before the softmax.
        topk_penalty: additional margin, radians, of the most similar classes of other speakers: their angles count as smaller by
            it. 0 is plain AAM-Softmax; the paper uses 0.06.
        topk: how many such classes each utterance has; the paper uses 5.
        margin: where a schedule starts from, radians; the margin of an evaluation is given with it.

    Raises:
        InputError: an attribute outside its range.
    """

    scale: float = 30.0
    topk_penalty: float = 0.0
    topk: int = 5
    margin: float = 0.2

    def __post_init__(self) -> None:
        check_scale(self.scale)
        if not 0.0 <= self.topk_penalty < 1.0 or self.topk < 1:
            raise InputError(
                f"topk_penalty={self.topk_penalty}, topk={self.topk} cannot be used; expected an angle from 0 to 1 radian and a "
                "number above 0"
            )

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> MarginSoftmax:
        """Take what concerns this objective from the section ``loss``."""
        return cls(**chosen(settings, scale="scale", topk_penalty="topk_penalty", topk="topk", margin="margin"))

    def with_weighted_negatives(self, weights: Tensor) -> ClassObjective:
        """Return the objective with the exponentials of other speakers' classes times ``weights`` in the softmax."""
        return ShiftedNegatives(self, weights.log() / self.scale)

    def evaluate(self, cosines: Tensor, labels: Tensor, margin: float, bias: Tensor | None = None) -> ObjectiveValue:
        """See :meth:`ClassObjective.evaluate`."""
        index = labels.unsqueeze(1)
        target = cosines.gather(1, index)
        moved, slope = lowered(target, margin)
        cosines.scatter_(1, index, -math.inf)
        nearest = cosines.amax(dim=1, keepdim=True)
        hard: tuple[Tensor, Tensor, Tensor] | None = None
        highest = nearest
        if self.topk_penalty > 0.0:
            values, places = cosines.topk(min(self.topk, cosines.shape[1] - 1), dim=1)
            hard = (places, *raised(values, self.topk_penalty))
            highest = torch.maximum(nearest, hard[1].amax(dim=1, keepdim=True))
        cosines.scatter_(1, index, target)
        # The softmax without its denominator, which goes into the row factor; nothing exceeds exp(0).
        highest = self.scale * torch.maximum(highest, moved)
        powers = torch.add(-highest, cosines, alpha=self.scale)
        powers.scatter_(1, index, self.scale * moved - highest)
        if hard is not None:
            powers.scatter_(1, hard[0], self.scale * hard[1] - highest)
        powers.exp_()
        total = powers.sum(dim=1, keepdim=True)
        own = powers.gather(1, index)
        losses = total.log() + highest - self.scale * moved
        powers.scatter_(1, index, (own - total) * slope)
        if hard is not None:
            powers.scatter_(1, hard[0], powers.gather(1, hard[0]) * hard[2])
        accuracy = (target > nearest).float().mean()
        return ObjectiveValue(losses.mean(), accuracy, powers, self.scale / (len(labels) * total))

    def uninformed_loss(self, num_classes: int, margin: float) -> float:
        """See :meth:`ClassObjective.uninformed_loss`."""
        hard = min(self.topk, num_classes - 1) if self.topk_penalty > 0.0 else 0
        own = -self.scale * math.sin(margin)
        others = (num_classes - 1 - hard) + hard * math.exp(self.scale * math.sin(self.topk_penalty))
        return math.log(math.exp(own) + others) - own


@dataclass(frozen=True)
class SphereFace2:
    """One binary question per class, "is it this speaker?" (arXiv 2108.01513; for speaker verification arXiv 2307.08205).

    With ``g(z) = 2 ((z + 1) / 2)^t - 1`` and a learnable bias ``b`` the loss of an utterance of class ``y`` is
    ``lambda softplus(-(r p + b)) + (1 - lambda) sum over i != y of softplus(r n_i + b)``. Type C, additive: ``p = g(cos_y) - m``
    and ``n_i = g(cos_i) + m``; type A, angular: ``p = g(cos(angle_y + m))`` and ``n_i = g(cos(angle_i - m))``. (The paper divides
    the whole by ``r``; here it stays in the unit of the other losses.)

    Attributes:
        scale: ``r``.
        positive_share: ``lambda``, weight of the own class against all others together.
        exponent: ``t``; above 1 it spreads the similarities of other speakers' classes.
        margin_type: ``"C"`` or ``"A"``.
        margin: where a schedule starts from, radians (type C: a similarity).

    Raises:
        InputError: an attribute outside its range.
    """

    scale: float = 32.0
    positive_share: float = 0.7
    exponent: float = 3.0
    margin_type: str = "C"
    margin: float = 0.2

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> SphereFace2:
        """Take what concerns this objective from the section ``loss``."""
        return cls(
            **chosen(
                settings,
                scale="scale",
                positive_share="sphereface2_lambda",
                exponent="sphereface2_t",
                margin_type="sphereface2_margin_type",
                margin="margin",
            )
        )

    def with_weighted_negatives(self, weights: Tensor) -> ClassObjective:
        """Return the objective with the questions about other speakers' classes counted ``weights`` times."""
        return RepeatedNegatives(self, weights)

    def __post_init__(self) -> None:
        check_scale(self.scale)
        if not 0.0 < self.positive_share < 1.0:
            raise InputError(f"sphereface2_lambda={self.positive_share} cannot be used; expected a share between 0 and 1")
        if not 1.0 <= self.exponent < math.inf:
            raise InputError(f"sphereface2_t={self.exponent} cannot be used; expected an exponent of 1 or more")
        if self.margin_type not in ("A", "C"):
            raise InputError(f"sphereface2_margin_type={self.margin_type!r} is unknown; expected 'A' or 'C'")

    def evaluate(self, cosines: Tensor, labels: Tensor, margin: float, bias: Tensor | None) -> ObjectiveValue:
        """See :meth:`ClassObjective.evaluate`."""
        assert bias is not None
        index = labels.unsqueeze(1)
        target = cosines.gather(1, index)
        others = 1.0 - self.positive_share
        angular = self.margin_type == "A"
        moved, move_slopes = raised(cosines, margin) if angular else (cosines, None)
        gradient, slopes = self._spread(moved)
        if not angular:
            gradient.add_(margin)
        gradient.mul_(self.scale).add_(bias)
        positive, positive_slope = self._positive(target, margin, bias)
        losses = others * torch.nn.functional.softplus(gradient).scatter_(1, index, 0.0).sum(dim=1, keepdim=True)
        losses = losses + self.positive_share * torch.nn.functional.softplus(-positive)
        gradient.sigmoid_().mul_(others)
        gradient.scatter_(1, index, -self.positive_share * torch.sigmoid(-positive))
        count = len(labels)
        bias_gradient = gradient.sum() / count
        gradient.mul_(slopes)
        if move_slopes is not None:
            gradient.mul_(move_slopes)
        gradient.scatter_(1, index, -self.positive_share * torch.sigmoid(-positive) * positive_slope)
        accuracy = (target > cosines.scatter(1, index, -math.inf).amax(dim=1, keepdim=True)).float().mean()
        row_factor = torch.full_like(target, self.scale / count)
        return ObjectiveValue(losses.mean(), accuracy, gradient, row_factor, bias_gradient)

    def _spread(self, cosines: Tensor) -> tuple[Tensor, Tensor]:
        """``g`` of the cosines, and its slopes; both new."""
        half = (cosines + 1.0).mul_(0.5)
        if self.exponent != 1.0:
            half.clamp_(min=0.0)  # rounding, or a margin, can bring a cosine below -1, where a power has no value
        power = half.pow(self.exponent - 1.0)
        return half.mul_(power).mul_(2.0).sub_(1.0), power.mul_(self.exponent)

    def _positive(self, target: Tensor, margin: float, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Logit of the own class, and the slope of its similarity by the cosine."""
        if self.margin_type == "C":
            value, slope = self._spread(target)
            return self.scale * (value - margin) + bias, slope
        moved, move_slope = lowered(target, margin)
        value, slope = self._spread(moved)
        return self.scale * value + bias, slope * move_slope

    def initial_bias(self, num_classes: int, margin: float) -> float:
        """Return the bias at which own class and others pull alike while all cosines are 0: the best one without knowledge."""
        own, other = self._uninformed_similarities(margin)
        ratio = self.positive_share / ((1.0 - self.positive_share) * (num_classes - 1))
        root = math.sqrt((1.0 - ratio) ** 2 + 4.0 * ratio * math.exp(own - other))
        return math.log(2.0 * ratio) - other - math.log(1.0 - ratio + root)

    def uninformed_loss(self, num_classes: int, margin: float) -> float:
        """See :meth:`ClassObjective.uninformed_loss`; at the bias of :meth:`initial_bias`."""
        own, other = self._uninformed_similarities(margin)
        bias = self.initial_bias(num_classes, margin)
        negatives = (1.0 - self.positive_share) * (num_classes - 1) * _softplus(other + bias)
        return self.positive_share * _softplus(-own - bias) + negatives

    def _uninformed_similarities(self, margin: float) -> tuple[float, float]:
        """Own and others' similarities times the scale, without the bias, at cosines of 0."""
        if self.margin_type == "C":
            spread = 2.0 * 0.5**self.exponent - 1.0
            return self.scale * (spread - margin), self.scale * (spread + margin)
        own, other = (2.0 * ((1.0 + sign * math.sin(margin)) / 2.0) ** self.exponent - 1.0 for sign in (-1.0, 1.0))
        return self.scale * own, self.scale * other


@dataclass(frozen=True)
class NearestSubcenter:
    """Several centres per class, the nearest of which counts, for noisy labels and several conditions (Deng et al., ECCV 2020).

    Attributes:
        objective: what is asked of the cosine to the nearest centre.
        num_subcenters: centres per class; those of a class are neighbouring rows of the class matrix.

    Raises:
        InputError: there are no centres.
    """

    objective: ClassObjective = field(default_factory=MarginSoftmax)
    num_subcenters: int = 3

    def __post_init__(self) -> None:
        if self.num_subcenters < 1:
            raise InputError(f"num_subcenters={self.num_subcenters} must be positive")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> NearestSubcenter:
        """Take what concerns this objective from the section ``loss``."""
        return cls(MarginSoftmax.from_settings(settings), **chosen(settings, num_subcenters="num_subcenters"))

    def with_weighted_negatives(self, weights: Tensor) -> ClassObjective:
        """Return the same with the inner objective's negatives weighted."""
        return replace(self, objective=weighted_negatives(self.objective, weights))

    @property
    def margin(self) -> float:
        """That of the objective."""
        return float(getattr(self.objective, "margin", DEFAULT_MARGIN))

    @property
    def scale(self) -> float | None:
        """That of the objective."""
        return getattr(self.objective, "scale", None)

    def evaluate(self, cosines: Tensor, labels: Tensor, margin: float, bias: Tensor | None) -> ObjectiveValue:
        """See :meth:`ClassObjective.evaluate`, with cosines ``(batch, classes * num_subcenters)``."""
        nearest, center = cosines.view(len(cosines), -1, self.num_subcenters).max(dim=2)
        result = self.objective.evaluate(nearest, labels, margin, bias)
        gradient = torch.zeros_like(cosines)
        gradient.view(len(cosines), -1, self.num_subcenters).scatter_(2, center.unsqueeze(2), result.gradient.unsqueeze(2))
        return ObjectiveValue(result.loss, result.accuracy, gradient, result.row_factor, result.bias_gradient)

    def initial_bias(self, num_classes: int, margin: float) -> float | None:
        """That of the objective."""
        return initial_bias(self.objective, num_classes, margin)

    def uninformed_loss(self, num_classes: int, margin: float) -> float:
        """That of the objective: embeddings orthogonal to all centres are so to the nearest."""
        return self.objective.uninformed_loss(num_classes, margin)


# Objectives on a sample of the classes (partial FC, arXiv 2203.15565): each sampled class counts for those that were left out.


@dataclass(frozen=True, eq=False)
class ShiftedNegatives:
    """Adds ``shifts (classes,)`` to the cosines of other speakers' classes: factors of their exponentials in a softmax."""

    objective: ClassObjective
    shifts: Tensor

    def evaluate(self, cosines: Tensor, labels: Tensor, margin: float, bias: Tensor | None) -> ObjectiveValue:
        """See :meth:`ClassObjective.evaluate`; the accuracy is that of cosines without the constants."""
        index = labels.unsqueeze(1)
        target = cosines.gather(1, index)
        accuracy = (target > cosines.scatter(1, index, -math.inf).amax(dim=1, keepdim=True)).float().mean()
        shifted = (cosines + self.shifts.to(cosines)).scatter_(1, index, target)
        return replace(self.objective.evaluate(shifted, labels, margin, bias), accuracy=accuracy)

    def uninformed_loss(self, num_classes: int, margin: float) -> float:
        """See :meth:`ClassObjective.uninformed_loss`; without the constants."""
        return self.objective.uninformed_loss(num_classes, margin)


@dataclass(frozen=True, eq=False)
class RepeatedNegatives:
    """Counts other speakers' classes several times in an objective that sums over classes.

    Attributes:
        objective: its loss is a sum with one term for each class.
        weights: ``(classes,)``, of two values, one of them 1 for the classes of the batch.
    """

    objective: ClassObjective
    weights: Tensor

    def evaluate(self, cosines: Tensor, labels: Tensor, margin: float, bias: Tensor | None) -> ObjectiveValue:
        """See :meth:`ClassObjective.evaluate`."""
        once = self.weights == 1.0
        weight = self.weights.max().to(cosines)
        every = self.objective.evaluate(cosines, labels, margin, bias)
        part = self.objective.evaluate(cosines[:, once], once.cumsum(0)[labels] - 1, margin, bias)
        by_bias = None
        if every.bias_gradient is not None and part.bias_gradient is not None:
            by_bias = part.bias_gradient + weight * (every.bias_gradient - part.bias_gradient)
        gradient = every.gradient.mul_(self.weights.to(cosines))
        loss = part.loss + weight * (every.loss - part.loss)
        return ObjectiveValue(loss, every.accuracy, gradient, every.row_factor, by_bias)

    def uninformed_loss(self, num_classes: int, margin: float) -> float:
        """See :meth:`ClassObjective.uninformed_loss`."""
        return self.objective.uninformed_loss(num_classes, margin)


def weighted_negatives(objective: ClassObjective, weights: Tensor) -> ClassObjective:
    """Return the objective with other speakers' classes counted ``weights (classes,)`` times; as it is if it does not say how."""
    weighted = getattr(objective, "with_weighted_negatives", None)
    return objective if weighted is None else weighted(weights)


def initial_bias(objective: ClassObjective, num_classes: int, margin: float) -> float | None:
    """Return where the objective's learnable bias starts, or None for one without."""
    start = getattr(objective, "initial_bias", None)
    return None if start is None else start(num_classes, margin)


def check_scale(scale: float) -> None:
    """Raise an InputError unless cosines can be multiplied by this."""
    if not 0.0 < scale < math.inf:
        raise InputError(f"scale={scale} must be positive")


def _softplus(value: float) -> float:
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))

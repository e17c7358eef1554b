"""Losses that make every prefix of one embedding good.

The objects that own parameters own them as registered submodules, so an optimizer built from the module that holds the model and
the loss trains the class matrices too. A class matrix that nobody trains leaves the loss at chance for ever.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mrl.errors import InputError
from mrl.matryoshka.class_objectives import ClassObjective, MarginSoftmax, NearestSubcenter, SphereFace2
from mrl.matryoshka.pair_objectives import AngularPrototypical, PairObjective, SupervisedContrastive
from mrl.matryoshka.prefix_gradients import PrefixTerm, prefix_class_loss

# One number for each prefix length, however the user gave them.


PerDim = Mapping[int, float] | Sequence[float]


def checked_loss_dims(dims: Iterable[int]) -> list[int]:
    """Return the lengths in the order given.

    Raises:
        InputError: there are none, or they are not distinct and positive.
    """
    given = list(dims)
    if not given or any(dim < 1 for dim in given) or len(set(given)) != len(given):
        raise InputError(f"dims={given} cannot be used; expected different positive prefix lengths")
    return given


def per_dim(values: PerDim | None, dims: Sequence[int], default: float, name: str) -> dict[int, float]:
    """Return the value of each length: from a mapping (others get the default) or a sequence in the order of ``dims``.

    Raises:
        InputError: a sequence of another length, or a mapping that names other lengths; ``name`` says of what.
    """
    if values is None:
        return dict.fromkeys(dims, default)
    if isinstance(values, Mapping):
        unknown = sorted(set(values) - set(dims))
        if unknown:
            raise InputError(f"{name} names the lengths {unknown}, which are not among dims={list(dims)}")
        return {dim: float(values.get(dim, default)) for dim in dims}
    if len(values) != len(dims):
        raise InputError(f"{name} has {len(values)} values for {len(dims)} dims; expected one for each of {list(dims)}")
    return {dim: float(value) for dim, value in zip(dims, values, strict=True)}


def normalised_weights(values: PerDim | None, dims: Sequence[int]) -> dict[int, float]:
    """Return the weight of each length in ascending order, summing to one.

    Raises:
        InputError: as :func:`per_dim`; a weight is negative or all are zero.
    """
    weights = per_dim(values, dims, 1.0, "dim_weights")
    total = sum(weights.values())
    if min(weights.values()) < 0 or not 0 < total < float("inf"):
        raise InputError(f"dim_weights={weights} cannot be used; expected weights of which none is negative and one positive")
    return {dim: weights[dim] / total for dim in sorted(weights)}


# A loss that needs no labels: cosines of every prefix follow those of a teacher's full embedding.


class SimilarityPreservationLoss(nn.Module):
    """Ask that prefix cosines follow the teacher's: mean squared difference over all pairs of a batch. Needs no labels.

    For low lengths, which cannot satisfy a margin for thousands of speakers, and for data without labels.

    Args:
        dims: prefix lengths, any order.
        dim_weights: weight of each length, a mapping or a sequence in the order of ``dims``; normalised to sum to one.
    """

    def __init__(self, dims: Iterable[int], dim_weights: PerDim | None = None) -> None:
        super().__init__()
        self.dim_weights = normalised_weights(dim_weights, checked_loss_dims(dims))

    def forward(self, raw_embeddings: Tensor, teacher_embeddings: Tensor) -> Tensor:
        """Return the loss for raw embeddings ``(batch, embed_dim)`` and the teacher's ``(batch, teacher_dim)``, batch > 1."""
        if raw_embeddings.shape[0] != teacher_embeddings.shape[0] or raw_embeddings.shape[0] < 2:
            raise InputError(
                f"embeddings {tuple(raw_embeddings.shape)} and teacher {tuple(teacher_embeddings.shape)} do not fit; "
                "expected the same batch of at least 2"
            )
        with torch.autocast(device_type=raw_embeddings.device.type, enabled=False):
            exact = raw_embeddings if raw_embeddings.dtype == torch.float64 else raw_embeddings.float()
            teacher = _pair_cosines(teacher_embeddings.detach().to(exact.dtype))
            total = teacher.new_zeros(())
            for dim, weight in self.dim_weights.items():
                difference = _pair_cosines(exact[:, :dim]) - teacher
                total = total + weight * difference.square().mean()
        return total


def _pair_cosines(vectors: Tensor) -> Tensor:
    """Cosines of all pairs of different rows, flat."""
    unit = functional.normalize(vectors, dim=1)
    cosines = unit @ unit.T
    rows, columns = torch.triu_indices(len(unit), len(unit), offset=1, device=unit.device)
    return cosines[rows, columns]


# The losses by their names in the configuration.


LossType = Literal["aam", "subcenter_aam", "sphereface2", "angular_prototypical", "supervised_contrastive"]


SphereFace2Margin = Literal["C", "A"]


DEFAULT_SCALES: dict[LossType, float] = {
    "aam": 30.0,
    "subcenter_aam": 30.0,
    "sphereface2": 32.0,
    "angular_prototypical": 10.0,
    "supervised_contrastive": 1.0 / 0.07,
}


PAIR_LOSSES: tuple[LossType, ...] = ("angular_prototypical", "supervised_contrastive")


AAM_LOSSES: tuple[LossType, ...] = ("aam", "subcenter_aam")


def chosen_scale(loss_type: LossType, scale: float | None) -> float:
    """Return the scale, or the loss's own default for None.

    Raises:
        InputError: there is no such loss, or the scale is not positive.
    """
    if loss_type not in DEFAULT_SCALES:
        raise InputError(f"loss_type={loss_type!r} is unknown; expected {', '.join(map(repr, get_args(LossType)))}")
    chosen = DEFAULT_SCALES[loss_type] if scale is None else scale
    if not 0.0 < chosen < math.inf:
        raise InputError(f"scale={chosen} must be positive")
    return chosen


def pair_objective(loss_type: LossType) -> PairObjective | None:
    """Return the objective of a loss that compares crops with each other, None for the others."""
    if loss_type == "angular_prototypical":
        return AngularPrototypical()
    return SupervisedContrastive() if loss_type == "supervised_contrastive" else None


def class_objective(
    loss_type: LossType,
    scale: float,
    *,
    num_subcenters: int = 3,
    topk_penalty: float = 0.0,
    topk: int = 5,
    sphereface2_lambda: float = 0.7,
    sphereface2_t: float = 3.0,
    sphereface2_margin_type: SphereFace2Margin = "C",
) -> ClassObjective | None:
    """Return the objective of a loss with a class matrix, None for the others.

    Raises:
        InputError: a setting cannot be used, or has no meaning for this loss.
    """
    if topk_penalty and loss_type not in AAM_LOSSES:
        raise InputError(f"topk_penalty={topk_penalty} belongs to {' and '.join(AAM_LOSSES)}; it has no meaning for {loss_type}")
    if not 0.0 <= topk_penalty < 1.0 or topk < 1:
        raise InputError(
            f"topk_penalty={topk_penalty}, topk={topk} cannot be used; expected an angle from 0 to 1 radian and a number above 0"
        )
    if loss_type == "sphereface2":
        return SphereFace2(scale, sphereface2_lambda, sphereface2_t, sphereface2_margin_type)
    softmax = MarginSoftmax(scale, topk_penalty, topk)
    if loss_type == "aam":
        return softmax
    if loss_type == "subcenter_aam":
        if num_subcenters < 1:
            raise InputError(f"num_subcenters={num_subcenters} must be positive")
        return NearestSubcenter(softmax, num_subcenters)
    return None


_UNUSED_COLUMN = 0.01


LARGEST_MARGIN = 1.5  # radians


_DROPOUT = 3  # keeps its random numbers apart from those of the data


@dataclass(frozen=True)
class MatryoshkaLossOutput:
    """The weighted mean over lengths, and each length's own loss and accuracy, without gradient, of those that took part."""

    total: Tensor
    per_dim: dict[int, Tensor]
    accuracy: dict[int, Tensor]


class MatryoshkaLoss(nn.Module):
    """A loss of the field at every prefix length, averaged (MRL: https://arxiv.org/abs/2205.13147). See docs/losses.md.

    Args:
        dims: prefix lengths, any order.
        num_classes: training speakers.
        loss_type: ``"aam"``; ``"subcenter_aam"``; ``"sphereface2"``; or, for batches with several crops of each speaker,
            ``"angular_prototypical"`` and ``"supervised_contrastive"``, which have no class matrix.
        margin: angle in radians, for every length without one in ``margins``. (Type C of SphereFace2: a similarity.)
        scale: what cosines are multiplied by; None: 30, SphereFace2 32, angular prototypical 10 (where its learning starts),
            supervised contrastive 1 / 0.07.
        num_subcenters: centres per speaker for ``"subcenter_aam"``.
        topk_penalty: additional margin of the ``topk`` most similar classes of others, radians, for both AAM losses; 0: none.
        topk: how many those are.
        sphereface2_lambda: weight of the own class against all others together.
        sphereface2_t: exponent of its similarity.
        sphereface2_margin_type: ``"C"`` (additive) or ``"A"`` (angular).
        dim_weights: weight of each length, a mapping or a sequence in the order of ``dims``; normalised to sum to one.
        margins: margin of each length, a mapping or a sequence in the order of ``dims``; :meth:`set_margin` keeps their ratio to
            ``margin``.
        dim_dropout: probability that a length sits out a step, in training mode; the longest never does. The others weigh the
            more, so that the expected gradient stays as it is. Call :meth:`start_step` before each step.
        seed: of that draw.
        shared_classes: one class matrix whose prefixes serve all lengths (all lengths then cost about one), instead of one each.
        speakers_per_batch: how many speakers a batch has, which the chance level of the losses without classes depends on.
        crops_per_speaker: and how many crops of each.

    Raises:
        InputError: unusable lengths, weights, margins or counts.
    """

    def __init__(
        self,
        dims: Iterable[int],
        num_classes: int,
        *,
        loss_type: LossType = "aam",
        margin: float = 0.2,
        scale: float | None = None,
        num_subcenters: int = 3,
        topk_penalty: float = 0.0,
        topk: int = 5,
        sphereface2_lambda: float = 0.7,
        sphereface2_t: float = 3.0,
        sphereface2_margin_type: SphereFace2Margin = "C",
        dim_weights: PerDim | None = None,
        margins: PerDim | None = None,
        dim_dropout: float = 0.0,
        seed: int = 0,
        shared_classes: bool = False,
        speakers_per_batch: int = 32,
        crops_per_speaker: int = 2,
    ) -> None:
        super().__init__()
        given = checked_loss_dims(dims)
        if num_classes < 2:
            raise InputError(f"{num_classes} training speakers cannot be told apart; expected at least 2")
        if not 0.0 <= dim_dropout < 1.0:
            raise InputError(f"dim_dropout={dim_dropout} cannot be used; expected a probability from 0 to below 1")
        self.scale = chosen_scale(loss_type, scale)
        self.pair_objective = pair_objective(loss_type)
        self.class_objective = class_objective(
            loss_type,
            self.scale,
            num_subcenters=num_subcenters,
            topk_penalty=topk_penalty,
            topk=topk,
            sphereface2_lambda=sphereface2_lambda,
            sphereface2_t=sphereface2_t,
            sphereface2_margin_type=sphereface2_margin_type,
        )
        self.dims = tuple(sorted(given))
        self.num_classes = num_classes
        self.loss_type = loss_type
        self.num_subcenters = num_subcenters if loss_type == "subcenter_aam" else 1
        self.shared_classes = shared_classes
        self.dim_dropout = dim_dropout
        self.dim_weights = normalised_weights(dim_weights, given)
        if margins is not None and margin <= 0:
            raise InputError(f"margins per length need a margin above 0, to which set_margin keeps their ratio (found {margin})")
        self._margin_ratios = (
            {dim: one / margin for dim, one in per_dim(margins, given, margin, "margins").items()} if margins else {}
        )
        self.margins: dict[int, float] = {}
        self.set_margin(margin)
        self._seed = seed
        self._step: int | None = None
        self._batch_speakers, self._batch_crops = speakers_per_batch, crops_per_speaker
        rows = num_classes * self.num_subcenters
        widths = (self.dims[-1:] if shared_classes else self.dims) if self.class_objective is not None else ()
        self.class_matrices = nn.ParameterList(nn.Parameter(functional.normalize(torch.randn(rows, width))) for width in widths)
        starts = [] if self.class_objective is None else [self._initial_bias(dim) for dim in self.dims]
        self.biases = nn.Parameter(torch.tensor(starts)) if None not in starts and starts else None
        learns_scale = self.pair_objective is not None and self.pair_objective.learns_scale
        self.scales = nn.Parameter(torch.full((len(self.dims),), self.scale)) if learns_scale else None

    def set_margin(self, margin: float) -> None:
        """Set the margin, in radians (for a schedule); each length keeps the ratio of its own margin to it."""
        self.margins = {dim: margin * self._margin_ratios.get(dim, 1.0) for dim in self.dims}
        for dim, one in self.margins.items():
            if not 0.0 <= one < LARGEST_MARGIN:
                raise InputError(f"margin={one} at {dim} dimensions cannot be used; expected an angle from 0 to 1.5 radians")

    def start_step(self, step: int) -> None:
        """Draw which lengths take part in the optimizer step of this number.

        The draw depends on seed and number only: it is the same in all processes, and after a resume.
        """
        self._step = step

    @property
    def active_dims(self) -> tuple[int, ...]:
        """The lengths that take part in the current step, ascending; all of them in evaluation mode or without dropout.

        Raises:
            InputError: :meth:`start_step` was never called though lengths are to sit out.
        """
        if not (self.training and self.dim_dropout):
            return self.dims
        if self._step is None:
            raise InputError("dim_dropout needs start_step(number) before each optimizer step")
        draws = np.random.default_rng((self._seed, self._step, _DROPOUT)).random(len(self.dims) - 1)
        return (*(dim for dim, draw in zip(self.dims, draws, strict=False) if draw >= self.dim_dropout), self.dims[-1])

    def chance_level(self) -> float:
        """Return the loss of embeddings that know nothing of the classes: a loss that stays there is not learning."""
        return sum(weight * self._uninformed_loss(dim) for dim, weight in self.dim_weights.items())

    def forward(self, raw_embeddings: Tensor, labels: Tensor) -> MatryoshkaLossOutput:
        """Compute the loss at every length that takes part.

        Args:
            raw_embeddings: ``(batch, embed_dim)`` with ``embed_dim >= max(dims)``, not normalised.
            labels: ``(batch,)`` class indices.

        Raises:
            InputError: shapes that do not fit; no speaker with two crops where the loss compares crops.
        """
        if raw_embeddings.ndim != 2 or raw_embeddings.shape[1] < self.dims[-1] or labels.shape != raw_embeddings.shape[:1]:
            raise InputError(
                f"embeddings {tuple(raw_embeddings.shape)} and labels {tuple(labels.shape)} do not fit; "
                f"expected (batch, {self.dims[-1]} or more) and (batch,)"
            )
        active = self.active_dims
        kept = 1.0 - self.dim_dropout if self.training else 1.0
        terms = [
            PrefixTerm(dim, self.dim_weights[dim] / (kept if dim != self.dims[-1] else 1.0), self.margins[dim]) for dim in active
        ]
        # Angles near zero lose their meaning in half precision.
        with torch.autocast(device_type=raw_embeddings.device.type, enabled=False):
            exact = raw_embeddings if raw_embeddings.dtype == torch.float64 else raw_embeddings.float()
            if self.class_objective is None:
                return self._compare_pairs(exact, labels, terms)
            return self._compare_with_classes(self.class_objective, exact, labels, terms)

    def _compare_with_classes(
        self, objective: ClassObjective, raw: Tensor, labels: Tensor, terms: list[PrefixTerm]
    ) -> MatryoshkaLossOutput:
        places = [self.dims.index(term.dim) for term in terms]
        if self.shared_classes:
            groups = [(self.class_matrices[0], places, terms)]
        else:
            groups = [(self.class_matrices[place], [place], [term]) for place, term in zip(places, terms, strict=True)]
        total = raw.new_zeros(())
        losses: list[Tensor] = []
        accuracies: list[Tensor] = []
        for classes, of_group, group_terms in groups:
            biases = None if self.biases is None else self.biases[of_group]
            part, loss, accuracy = prefix_class_loss(raw, classes, biases, labels, group_terms, objective)
            total = total + part
            losses.extend(loss)
            accuracies.extend(accuracy)
        if not self.shared_classes:
            for place in set(range(len(self.dims))) - set(places):
                # A gradient of zeros, not none: an optimizer must treat the matrix alike in one process and in several.
                total = total + 0.0 * self.class_matrices[place][0, 0]
        return _output(total, terms, losses, accuracies)

    def _compare_pairs(self, raw: Tensor, labels: Tensor, terms: list[PrefixTerm]) -> MatryoshkaLossOutput:
        assert self.pair_objective is not None
        total = raw.new_zeros(())
        losses: list[Tensor] = []
        accuracies: list[Tensor] = []
        for term in terms:
            scale = raw.new_tensor(self.scale) if self.scales is None else self.scales[self.dims.index(term.dim)]
            loss, accuracy = self.pair_objective.evaluate(raw[:, : term.dim], labels, term.margin, scale)
            total = total + term.weight * loss
            losses.append(loss.detach())
            accuracies.append(accuracy)
        return _output(total, terms, losses, accuracies)

    @torch.no_grad()
    def initialise_from_class_means(self, raw_embeddings: Tensor, labels: Tensor) -> None:
        """Start every class at the mean direction of its utterances; classes without one keep their random direction.

        Losses without class matrices have nothing to start.

        Args:
            raw_embeddings: ``(utterances, embed_dim)``, not normalised.
            labels: ``(utterances,)`` class indices. Further sub-centres start at single utterances of the class, so that they
                can part.
        """
        present = torch.bincount(labels.cpu(), minlength=self.num_classes).nonzero().squeeze(1)
        for matrix in self.class_matrices:
            width = matrix.shape[1]
            unit = functional.normalize(raw_embeddings[:, :width].to(matrix), dim=1)
            sums = torch.zeros(self.num_classes, width, dtype=matrix.dtype, device=matrix.device)
            sums.index_add_(0, labels.to(matrix.device), unit)
            # Where all embeddings are zero (rows of the head that wait for training) so are the means, and a product of two
            # zeros has no gradient: such columns start random and small.
            unused = (unit == 0).all(dim=0)
            sums[:, unused] = _UNUSED_COLUMN * torch.randn(self.num_classes, int(unused.sum()), dtype=matrix.dtype).to(
                matrix.device
            )
            centers = matrix.view(self.num_classes, self.num_subcenters, width)
            means = functional.normalize(sums, dim=1)
            centers[present, 0] = means[present]
            for label in map(int, present) if self.num_subcenters > 1 else ():
                members = unit[(labels == label).nonzero().squeeze(1)]
                for center in range(1, self.num_subcenters):
                    centers[label, center] = functional.normalize(means[label] + members[(center - 1) % len(members)], dim=0)

    def _initial_bias(self, dim: int) -> float | None:
        return None if self.class_objective is None else self.class_objective.initial_bias(self.num_classes, self.margins[dim])

    def _uninformed_loss(self, dim: int) -> float:
        margin = self.margins[dim]
        if self.class_objective is not None:
            return self.class_objective.uninformed_loss(self.num_classes, margin)
        assert self.pair_objective is not None
        scale = self.scale if self.scales is None else self.scales[self.dims.index(dim)].item()
        return self.pair_objective.uninformed_loss(self._batch_speakers, self._batch_crops, margin, scale)

    def extra_repr(self) -> str:
        kind = f"loss_type={self.loss_type!r}, shared_classes={self.shared_classes}"
        return f"dims={self.dims}, num_classes={self.num_classes}, {kind}"


def _output(total: Tensor, terms: list[PrefixTerm], losses: list[Tensor], accuracies: list[Tensor]) -> MatryoshkaLossOutput:
    dims = [term.dim for term in terms]
    return MatryoshkaLossOutput(total, dict(zip(dims, losses, strict=True)), dict(zip(dims, accuracies, strict=True)))


# The place of a classification loss in a training without labels, where other terms do the teaching.


class NoClassLoss(nn.Module):
    """Is zero for whatever embeddings and labels, has no parameters, and takes what a schedule tells a MatryoshkaLoss."""

    dims: tuple[int, ...] = ()

    def set_margin(self, margin: float) -> None:
        """There is no margin to set."""

    def start_step(self, step: int) -> None:
        """There is no length to draw."""

    def chance_level(self) -> float:
        """Return NaN: without classes there is no chance level."""
        return math.nan

    def initialise_from_class_means(self, raw_embeddings: Tensor, labels: Tensor) -> None:
        """There is no class matrix to start."""

    def forward(self, raw_embeddings: Tensor, labels: Tensor) -> MatryoshkaLossOutput:
        """Return zero, which has no gradient, and no figures per length."""
        return MatryoshkaLossOutput(raw_embeddings.new_zeros(()), {}, {})

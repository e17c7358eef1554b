"""Losses that make every prefix of one embedding good.

The objects that own parameters own them as registered submodules, so an optimizer built from the module that holds the model and
the loss trains the class matrices too. A class matrix that is not trained leaves the loss at chance for ever.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mrl.errors import InputError
from mrl.matryoshka.class_objectives import DEFAULT_MARGIN, ClassObjective, initial_bias, weighted_negatives
from mrl.matryoshka.objectives import make_objective
from mrl.matryoshka.pair_objectives import PairObjective
from mrl.matryoshka.prefix_gradients import PrefixTerm, prefix_class_loss

# A value for each prefix length, however the user gave them.


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


# Losses with labels: an objective at every prefix length.


_UNUSED_COLUMN = 0.01


LARGEST_MARGIN = 1.5  # radians


_DROPOUT, _SAMPLED = 3, 10  # keep their random numbers apart from each other and from those of the data


@dataclass(frozen=True)
class MatryoshkaLossOutput:
    """The weighted mean over lengths, and each length's own loss and accuracy, without gradient, of those that took part."""

    total: Tensor
    per_dim: dict[int, Tensor]
    accuracy: dict[int, Tensor]


class MatryoshkaLoss(nn.Module):
    """An objective at every prefix length, averaged (MRL: https://arxiv.org/abs/2205.13147). See docs/reference/losses.md.

    ``MatryoshkaLoss([64, 256], 5994, MarginSoftmax(margin=0.2, scale=30))``, or by name and settings, as in a configuration:
    ``MatryoshkaLoss([64, 256], 5994, loss_type="sphereface2", sphereface2_t=3.0)``.

    Args:
        dims: prefix lengths, any order.
        num_classes: training speakers.
        objective: what is minimised: any object with the two methods that :mod:`mrl.matryoshka.objectives` describes, or a name
            from there.
        loss_type: the name, where no objective is given.
        margin: angle in radians, for every length without one in ``margins``; None: that of the objective. (Type C of
            SphereFace2: a similarity.)
        dim_weights: weight of each length, a mapping or a sequence in the order of ``dims``; normalised to sum to one.
        margins: margin of each length, a mapping or a sequence in the order of ``dims``; :meth:`set_margin` keeps their ratio to
            ``margin``.
        dim_dropout: probability that a length sits out a step, in training mode; the longest never does. The others weigh the
            more, so that the expected gradient stays as it is. Call :meth:`start_step` before each step.
        sampled_classes: share of the classes, 0 to 1, that an embedding is compared with in a training step: those of the batch
            and others drawn at random (partial FC, arXiv 2203.15565), each of which counts for those that were left out. Call
            :meth:`start_step` before each step.
        seed: of those draws.
        shared_classes: one class matrix whose prefixes serve all lengths (all lengths then cost about one), instead of one each.
        speakers_per_batch: how many speakers a batch has, which the chance level of the losses without classes depends on.
        crops_per_speaker: and how many crops of each.
        **settings: for an objective given by name, the keys of the section ``loss`` that concern it, such as ``scale``,
            ``num_subcenters``, ``topk_penalty`` and ``topk``, ``sphereface2_lambda``.

    Raises:
        InputError: unusable lengths, weights, margins, counts or settings.
    """

    def __init__(
        self,
        dims: Iterable[int],
        num_classes: int,
        objective: ClassObjective | PairObjective | str | None = None,
        *,
        loss_type: str = "aam",
        margin: float | None = None,
        dim_weights: PerDim | None = None,
        margins: PerDim | None = None,
        dim_dropout: float = 0.0,
        sampled_classes: float = 1.0,
        seed: int = 0,
        shared_classes: bool = False,
        speakers_per_batch: int = 32,
        crops_per_speaker: int = 2,
        **settings: Any,
    ) -> None:
        super().__init__()
        given = checked_loss_dims(dims)
        if num_classes < 2:
            raise InputError(f"{num_classes} training speakers cannot be told apart; expected at least 2")
        if not 0.0 <= dim_dropout < 1.0:
            raise InputError(f"dim_dropout={dim_dropout} cannot be used; expected a probability from 0 to below 1")
        if not 0.0 < sampled_classes <= 1.0:
            raise InputError(f"sampled_classes={sampled_classes} cannot be used; expected a share above 0, up to 1")
        if objective is None or isinstance(objective, str):
            objective = make_objective(objective or loss_type, settings, strict=True)
        elif settings:
            raise InputError(f"{', '.join(settings)} belong to objectives given by name; set them on the objective")
        compares_crops = bool(getattr(objective, "compares_crops", False))
        self.objective = cast(ClassObjective | PairObjective, objective)
        self.class_objective = None if compares_crops else cast(ClassObjective, objective)
        self.pair_objective = cast(PairObjective, objective) if compares_crops else None
        if compares_crops and sampled_classes < 1.0:
            raise InputError("sampled_classes has no meaning for an objective that compares crops; expected 1.0")
        self.scale = float(getattr(objective, "scale", None) or 1.0)
        self.dims = tuple(sorted(given))
        self.num_classes = num_classes
        self.num_subcenters = int(getattr(objective, "num_subcenters", 1))
        self.shared_classes = shared_classes
        self.dim_dropout = dim_dropout
        self.sampled_classes = sampled_classes
        self.dim_weights = normalised_weights(dim_weights, given)
        margin = float(getattr(objective, "margin", DEFAULT_MARGIN)) if margin is None else margin
        if margins is not None and margin <= 0:
            raise InputError(f"margins per length need a margin above 0, to which set_margin keeps their ratio (found {margin})")
        self._margin_ratios = (
            {dim: own / margin for dim, own in per_dim(margins, given, margin, "margins").items()} if margins else {}
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
        learns_scale = compares_crops and bool(getattr(objective, "learns_scale", False))
        self.scales = nn.Parameter(torch.full((len(self.dims),), self.scale)) if learns_scale else None

    def set_margin(self, margin: float) -> None:
        """Set the margin, in radians (for a schedule); each length keeps the ratio of its own margin to it."""
        self.margins = {dim: margin * self._margin_ratios.get(dim, 1.0) for dim in self.dims}
        for dim, own in self.margins.items():
            if not 0.0 <= own < LARGEST_MARGIN:
                raise InputError(f"margin={own} at {dim} dimensions cannot be used; expected an angle from 0 to 1.5 radians")

    def start_step(self, step: int) -> None:
        """Draw which lengths, and which classes besides those of a batch, take part in the optimizer step of this number.

        The draws depend on seed and number only: they are the same in all processes, and after a resume.
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
        sampled = self._sample(labels) if self.training and self.sampled_classes < 1.0 else None
        if sampled is not None:
            rows, labels, weights = sampled
            objective = weighted_negatives(objective, weights)
            groups = [(classes[rows], of_group, group_terms) for classes, of_group, group_terms in groups]
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

    def _sample(self, labels: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Return rows of the class matrices, the labels among their classes, and how many classes each of these stands for.

        The classes of the batch are always drawn, with weight one. None where all classes are drawn.

        Raises:
            InputError: :meth:`start_step` was never called.
        """
        if self._step is None:
            raise InputError("sampled_classes needs start_step(number) before each optimizer step")
        size = max(1, round(self.sampled_classes * self.num_classes))
        drawn = np.random.default_rng((self._seed, self._step, _SAMPLED)).choice(self.num_classes, size, replace=False)
        own = torch.unique(labels)
        others = torch.from_numpy(drawn).to(labels.device)
        others = others[~torch.isin(others, own)]
        if len(own) + len(others) == self.num_classes or not len(others):
            return None
        classes, order = torch.cat([own, others]).sort()
        weights = torch.ones(len(classes), device=labels.device)
        weights[len(own) :] = (self.num_classes - len(own)) / len(others)
        centres = torch.arange(self.num_subcenters, device=labels.device)
        rows = (classes.unsqueeze(1) * self.num_subcenters + centres).reshape(-1)
        return rows, torch.searchsorted(classes, labels), weights[order]

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

    def initialise_from_class_means(self, raw_embeddings: Tensor, labels: Tensor) -> None:
        """Start every class at the mean direction of its utterances; classes without one keep their random direction.

        Losses without class matrices have nothing to start.

        Args:
            raw_embeddings: ``(utterances, embed_dim)``, not normalised.
            labels: ``(utterances,)`` class indices. Further sub-centres start near single utterances of the class, so that they
                can part.
        """
        self.initialise_from_blocks([(raw_embeddings, labels)])

    @torch.no_grad()
    def initialise_from_blocks(self, blocks: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Do the same with embeddings and labels that come block by block, each with all utterances of its classes.

        Nothing is held but the class matrices themselves.
        """
        if not len(self.class_matrices):
            return
        counts = torch.zeros(self.num_classes, dtype=torch.int64)
        centres = [matrix.view(self.num_classes, self.num_subcenters, matrix.shape[1]) for matrix in self.class_matrices]
        unused = [torch.ones(matrix.shape[1], dtype=torch.bool, device=matrix.device) for matrix in self.class_matrices]
        for raw_embeddings, labels in blocks:
            present, index, counted = torch.unique(labels.cpu(), return_inverse=True, return_counts=True)
            counts[present] = counted
            order = torch.argsort(index, stable=True)
            first = counted.cumsum(0) - counted
            for of_classes, columns in zip(centres, unused, strict=True):
                unit = functional.normalize(raw_embeddings[:, : of_classes.shape[2]].to(of_classes), dim=1)
                columns &= (unit == 0).all(dim=0)
                sums = unit.new_zeros(len(present), unit.shape[1]).index_add_(0, index.to(unit.device), unit)
                rows = present.to(unit.device)
                of_classes[rows, 0] = sums
                for centre in range(1, self.num_subcenters):
                    of_classes[rows, centre] = unit[order[first + (centre - 1) % counted].to(unit.device)]
        rows = counts.nonzero().squeeze(1)
        for of_classes, columns in zip(centres, unused, strict=True):
            present = rows.to(of_classes.device)
            means = of_classes[present, 0]
            if len(present) and columns.any():
                # Where all embeddings are zero (rows of the head that wait for training) so are the means, and a product of two
                # zeros has no gradient: such columns start random and small.
                random = torch.randn(self.num_classes, int(columns.sum()), dtype=means.dtype)
                means[:, columns] = _UNUSED_COLUMN * random[rows].to(means.device)
            means = functional.normalize(means, dim=1)
            of_classes[present, 0] = means
            for centre in range(1, self.num_subcenters):
                of_classes[present, centre] = functional.normalize(means + of_classes[present, centre], dim=1)

    def _initial_bias(self, dim: int) -> float | None:
        return None if self.class_objective is None else initial_bias(self.class_objective, self.num_classes, self.margins[dim])

    def _uninformed_loss(self, dim: int) -> float:
        margin = self.margins[dim]
        if self.class_objective is not None:
            return self.class_objective.uninformed_loss(self.num_classes, margin)
        assert self.pair_objective is not None
        scale = self.scale if self.scales is None else self.scales[self.dims.index(dim)].item()
        return self.pair_objective.uninformed_loss(self._batch_speakers, self._batch_crops, margin, scale)

    def extra_repr(self) -> str:
        kind = f"objective={self.objective}, shared_classes={self.shared_classes}"
        return f"dims={self.dims}, num_classes={self.num_classes}, {kind}"


def _output(total: Tensor, terms: list[PrefixTerm], losses: list[Tensor], accuracies: list[Tensor]) -> MatryoshkaLossOutput:
    dims = [term.dim for term in terms]
    return MatryoshkaLossOutput(total, dict(zip(dims, losses, strict=True)), dict(zip(dims, accuracies, strict=True)))


# In training without labels, where other terms do the teaching, this stands in the place of a MatryoshkaLoss.


class NoClassLoss(nn.Module):
    """Zero for any embeddings and labels; has no parameters, and accepts the calls of a schedule like a MatryoshkaLoss."""

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

    def initialise_from_blocks(self, blocks: Iterable[tuple[Tensor, Tensor]]) -> None:
        """There is no class matrix to start."""

    def forward(self, raw_embeddings: Tensor, labels: Tensor) -> MatryoshkaLossOutput:
        """Return zero, which has no gradient, and no figures per length."""
        return MatryoshkaLossOutput(raw_embeddings.new_zeros(()), {}, {})

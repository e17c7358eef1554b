"""Losses that make every prefix of one embedding good.

The objects that own parameters own them as registered submodules, so an optimizer built from the module that holds the model and
the loss trains the class matrices too. A class matrix that nobody trains leaves the loss at chance for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrl.errors import InputError
from mrl.matryoshka.margin import closest_subcenter, cross_entropy_and_accuracy, uninformed_loss

LossType = Literal["aam", "subcenter_aam"]
_NORM_FLOOR = 1e-12
_UNUSED_COLUMN = 0.01


@dataclass(frozen=True)
class MatryoshkaLossOutput:
    """The weighted mean over lengths, and each length's own loss and accuracy (without gradient)."""

    total: Tensor
    per_dim: dict[int, Tensor]
    accuracy: dict[int, Tensor]


class MatryoshkaLoss(nn.Module):
    """A margin softmax at every prefix length, averaged (MRL: https://arxiv.org/abs/2205.13147).

    Args:
        dims: prefix lengths, any order.
        num_classes: training speakers.
        loss_type: ``"aam"``, or ``"subcenter_aam"`` with several centres per speaker, for noisy labels and several conditions.
        margin: angle in radians, for every length without one in ``margins``.
        scale: what cosines are multiplied by before the softmax.
        num_subcenters: centres per speaker for ``"subcenter_aam"``.
        dim_weights: weight of each length, a mapping or a sequence in the order of ``dims``; normalised to sum to one.
        margins: margin of each length, a mapping or a sequence in the order of ``dims``.
        shared_classes: one class matrix whose prefixes serve all lengths (all lengths then cost about one), instead of one each.

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
        scale: float = 30.0,
        num_subcenters: int = 3,
        dim_weights: Mapping[int, float] | Sequence[float] | None = None,
        margins: Mapping[int, float] | Sequence[float] | None = None,
        shared_classes: bool = False,
    ) -> None:
        super().__init__()
        given = list(dims)
        if not given or any(dim < 1 for dim in given) or len(set(given)) != len(given):
            raise InputError(f"dims={given} cannot be used; expected different positive prefix lengths")
        if loss_type not in ("aam", "subcenter_aam"):
            raise InputError(f"loss_type={loss_type!r} is unknown; expected 'aam' or 'subcenter_aam'")
        if num_classes < 2:
            raise InputError(f"{num_classes} training speakers cannot be told apart; expected at least 2")
        if scale <= 0:
            raise InputError(f"scale={scale} must be positive")
        if loss_type == "subcenter_aam" and num_subcenters < 1:
            raise InputError(f"num_subcenters={num_subcenters} must be positive")
        self.dims = tuple(sorted(given))
        self.num_classes = num_classes
        self.loss_type = loss_type
        self.scale = scale
        self.num_subcenters = num_subcenters if loss_type == "subcenter_aam" else 1
        self.shared_classes = shared_classes
        self.dim_weights = _normalised_weights(dim_weights, given)
        self.margins = _per_dim(margins, given, margin, "margins")
        self._check_margins()
        rows = num_classes * self.num_subcenters
        widths = (self.dims[-1],) if shared_classes else self.dims
        self.class_matrices = nn.ParameterList(nn.Parameter(functional.normalize(torch.randn(rows, width))) for width in widths)

    def set_margin(self, margin: float) -> None:
        """Set the margin of every length, in radians (for a schedule)."""
        self.margins = dict.fromkeys(self.dims, margin)
        self._check_margins()

    def chance_level(self) -> float:
        """Return the loss of embeddings that know nothing of the classes: a loss that stays there is not learning."""
        return sum(
            weight * uninformed_loss(self.num_classes, self.margins[dim], self.scale) for dim, weight in self.dim_weights.items()
        )

    def forward(self, raw_embeddings: Tensor, labels: Tensor) -> MatryoshkaLossOutput:
        """Compute the loss at every length.

        Args:
            raw_embeddings: ``(batch, embed_dim)`` with ``embed_dim >= max(dims)``, not normalised.
            labels: ``(batch,)`` class indices.

        Raises:
            InputError: shapes that do not fit.
        """
        if raw_embeddings.ndim != 2 or raw_embeddings.shape[1] < self.dims[-1] or labels.shape != raw_embeddings.shape[:1]:
            raise InputError(
                f"embeddings {tuple(raw_embeddings.shape)} and labels {tuple(labels.shape)} do not fit; "
                f"expected (batch, {self.dims[-1]} or more) and (batch,)"
            )
        # Angles near zero lose their meaning in half precision.
        with torch.autocast(device_type=raw_embeddings.device.type, enabled=False):
            exact = raw_embeddings if raw_embeddings.dtype == torch.float64 else raw_embeddings.float()
            per_dim: dict[int, Tensor] = {}
            accuracy: dict[int, Tensor] = {}
            total = exact.new_zeros(())
            for dim, cosines in self._cosines(exact):
                nearest = closest_subcenter(cosines, self.num_subcenters)
                loss, accuracy[dim] = cross_entropy_and_accuracy(nearest, labels, self.margins[dim], self.scale)
                total = total + self.dim_weights[dim] * loss
                per_dim[dim] = loss.detach()
        return MatryoshkaLossOutput(total, per_dim, accuracy)

    def _cosines(self, raw: Tensor) -> Iterable[tuple[int, Tensor]]:
        if self.shared_classes:
            yield from shared_prefix_cosines(raw, self.class_matrices[0], self.dims)
        else:
            for dim, classes in zip(self.dims, self.class_matrices, strict=True):
                yield dim, functional.normalize(raw[:, :dim], dim=1) @ functional.normalize(classes, dim=1).T

    @torch.no_grad()
    def initialise_from_class_means(self, raw_embeddings: Tensor, labels: Tensor) -> None:
        """Start every class at the mean direction of its utterances; classes without one keep their random direction.

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

    def _check_margins(self) -> None:
        for dim, margin in self.margins.items():
            if not 0.0 <= margin < 1.5:
                raise InputError(f"margin={margin} at {dim} dimensions cannot be used; expected an angle from 0 to 1.5 radians")

    def extra_repr(self) -> str:
        kind = f"loss_type={self.loss_type!r}, shared_classes={self.shared_classes}"
        return f"dims={self.dims}, num_classes={self.num_classes}, {kind}"


def shared_prefix_cosines(raw: Tensor, classes: Tensor, dims: Sequence[int]) -> Iterable[tuple[int, Tensor]]:
    """Yield ``(dim, cosines (batch, classes))`` for ascending prefix lengths of one class matrix.

    Dot products and squared norms of a prefix are those of the shorter one plus a chunk, so all lengths together cost one full
    matrix product.
    """
    products = raw.new_zeros(())
    raw_energy = raw.new_zeros(())
    class_energy = raw.new_zeros(())
    for start, end in pairwise((0, *dims)):
        raw_chunk, class_chunk = raw[:, start:end], classes[:, start:end]
        products = products + raw_chunk @ class_chunk.T
        raw_energy = raw_energy + raw_chunk.square().sum(dim=1, keepdim=True)
        class_energy = class_energy + class_chunk.square().sum(dim=1)
        yield end, products * (raw_energy + _NORM_FLOOR).rsqrt() * (class_energy + _NORM_FLOOR).rsqrt()


class SimilarityPreservationLoss(nn.Module):
    """Ask that prefix cosines follow the teacher's: mean squared difference over all pairs of a batch. Needs no labels.

    For low lengths, which cannot satisfy a margin for thousands of speakers, and for data without labels.

    Args:
        dims: prefix lengths, any order.
        dim_weights: weight of each length, a mapping or a sequence in the order of ``dims``; normalised to sum to one.
    """

    def __init__(self, dims: Iterable[int], dim_weights: Mapping[int, float] | Sequence[float] | None = None) -> None:
        super().__init__()
        given = list(dims)
        if not given or any(dim < 1 for dim in given):
            raise InputError(f"dims={given} cannot be used; expected positive prefix lengths")
        self.dim_weights = _normalised_weights(dim_weights, given)

    def forward(self, raw_embeddings: Tensor, teacher_embeddings: Tensor) -> Tensor:
        """Return the loss for raw embeddings ``(batch, embed_dim)`` and the teacher's ``(batch, teacher_dim)``, batch > 1."""
        if raw_embeddings.shape[0] != teacher_embeddings.shape[0] or raw_embeddings.shape[0] < 2:
            raise InputError(
                f"embeddings {tuple(raw_embeddings.shape)} and teacher {tuple(teacher_embeddings.shape)} do not fit; "
                "expected the same batch of at least 2"
            )
        with torch.autocast(device_type=raw_embeddings.device.type, enabled=False):
            teacher = _pair_cosines(teacher_embeddings.detach().float())
            total = teacher.new_zeros(())
            for dim, weight in self.dim_weights.items():
                difference = _pair_cosines(raw_embeddings[:, :dim].float()) - teacher
                total = total + weight * difference.square().mean()
        return total


def _pair_cosines(vectors: Tensor) -> Tensor:
    """Cosines of all pairs of different rows, flat."""
    unit = functional.normalize(vectors, dim=1)
    cosines = unit @ unit.T
    rows, columns = torch.triu_indices(len(unit), len(unit), offset=1, device=unit.device)
    return cosines[rows, columns]


def _normalised_weights(values: Mapping[int, float] | Sequence[float] | None, dims: Sequence[int]) -> dict[int, float]:
    """Return the weight of each length in ascending order, summing to one."""
    weights = _per_dim(values, dims, 1.0, "dim_weights")
    total = sum(weights.values())
    if min(weights.values()) < 0 or total <= 0:
        raise InputError(f"dim_weights={weights} cannot be used; expected weights of which none is negative and one positive")
    return {dim: weights[dim] / total for dim in sorted(weights)}


def _per_dim(
    values: Mapping[int, float] | Sequence[float] | None, dims: Sequence[int], default: float, name: str
) -> dict[int, float]:
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

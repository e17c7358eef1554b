"""What a student learns of a teacher: the space embeddings are compared in, the teacher's view of the classes, a head to start.

A teacher's embedding is centred, scaled to unit length, and turned so that what it uses most comes first. Cosines between
centred embeddings stay as they are, and one target serves embedding regression and every prefix: the first dimensions of the
teacher's turned embedding are the best description of it in that many dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrl.errors import DataError, TrainingError
from mrl.matryoshka.losses import PerDim, checked_loss_dims, normalised_weights
from mrl.matryoshka.projection import AffineMap

_FEWEST = 2  # embeddings that a space is fitted to


class TeacherSpace(nn.Module):
    """Raw embeddings of a teacher ``(batch, dim)`` -> centred, of unit length, along their principal axes ``(batch, dim)``.

    Mean and axes are buffers: they travel with the checkpoints of a run, so that a resumed one has the same targets.

    Args:
        dim: length of the teacher's embedding.
    """

    mean: Tensor
    axes: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("axes", torch.eye(dim))

    @torch.no_grad()
    def fit(self, raw_embeddings: Tensor, *, centre: bool = True) -> None:
        """Take mean and axes from raw embeddings ``(utterances, dim)``.

        The axes are those of the second moments of unit-length embeddings (uncentred principal components, for cosines).

        Raises:
            DataError: fewer than two embeddings, or some of them not finite.
        """
        if raw_embeddings.shape[0] < _FEWEST or raw_embeddings.shape[1] != self.dim or not torch.isfinite(raw_embeddings).all():
            raise DataError(
                f"the teacher gave embeddings {tuple(raw_embeddings.shape)} for the training utterances; expected finite "
                f"numbers, ({_FEWEST} or more, {self.dim})"
            )
        unit = functional.normalize(raw_embeddings.double().cpu(), dim=1)
        mean = unit.mean(dim=0) if centre else torch.zeros(self.dim, dtype=torch.float64)
        unit = functional.normalize(unit - mean, dim=1)
        order = torch.linalg.eigh(unit.T @ unit / len(unit)).eigenvectors.flip(1).T
        # An axis may point either way: the larger sum of entries decides, so that the same data gives the same axes everywhere.
        order = order * torch.where(order.sum(dim=1, keepdim=True) < 0, -1.0, 1.0)
        self.mean.copy_(mean)
        self.axes.copy_(order)

    def forward(self, raw_embeddings: Tensor) -> Tensor:
        centred = functional.normalize(raw_embeddings.float(), dim=1) - self.mean
        return functional.linear(functional.normalize(centred, dim=1), self.axes)


class ClassPosteriorLoss(nn.Module):
    """Ask that every prefix sees the training speakers as the teacher does.

    Both are compared with the mean embedding of each speaker in the teacher's space, which gives logits and so posteriors over
    the speakers; the loss is their Kullback-Leibler divergence, 0 where they agree (knowledge distillation: Hinton et al. 2015,
    https://arxiv.org/abs/1503.02531).

    Args:
        dims: prefix lengths, any order; of those beyond the teacher's dim only the teacher's part is compared.
        num_classes: training speakers.
        teacher_dim: length of the teacher's embedding.
        scale: what cosines are multiplied by.
        dim_weights: weight of each length, as for :class:`mrl.matryoshka.SimilarityPreservationLoss`.
    """

    class_means: Tensor

    def __init__(
        self, dims: list[int], num_classes: int, teacher_dim: int, *, scale: float = 20.0, dim_weights: PerDim | None = None
    ) -> None:
        super().__init__()
        self.dim_weights = normalised_weights(dim_weights, checked_loss_dims(dims))
        self.scale = scale
        self.register_buffer("class_means", torch.zeros(num_classes, teacher_dim))

    @torch.no_grad()
    def fit(self, embeddings: Tensor, labels: Tensor) -> None:
        """Take the mean of each speaker from embeddings in the teacher's space ``(utterances, dim)``, labels ``(utterances,)``.

        Raises:
            TrainingError: a speaker has none.
        """
        sums = torch.zeros_like(self.class_means).index_add_(0, labels.to(self.class_means.device), embeddings)
        empty = (sums == 0).all(dim=1).nonzero().flatten().tolist()
        if empty:
            raise TrainingError(f"{len(empty)} training speakers have no embedding of the teacher, the first is class {empty[0]}")
        self.class_means.copy_(functional.normalize(sums, dim=1))

    def forward(self, raw_embeddings: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of raw embeddings ``(batch, embed_dim)`` for teacher embeddings in their space ``(batch, dim)``."""
        wanted = (self.scale * teacher @ self.class_means.T).log_softmax(dim=1)
        total = teacher.new_zeros(())
        for dim, weight in self.dim_weights.items():
            width = min(dim, self.class_means.shape[1])
            prefix = functional.normalize(raw_embeddings[:, :width].float(), dim=1)
            logits = self.scale * functional.linear(prefix, functional.normalize(self.class_means[:, :width], dim=1))
            divergence = functional.kl_div(logits.log_softmax(dim=1), wanted, reduction="batchmean", log_target=True)
            total = total + weight * divergence
        return total


class RegressionFit:
    """Ridge regression of a teacher's embeddings on normalised pooled statistics, from blocks: the head that comes nearest to it.

    Args:
        shrinkage: ridge, as a share of the mean variance of the features times their number.
    """

    def __init__(self, *, shrinkage: float = 0.05) -> None:
        self._shrinkage = shrinkage
        self._count = 0
        self._sums: list[Tensor] = []

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Take utterances: features ``(utterances, feature_dim)``, and targets in the teacher's space ``(utterances, dim)``.

        Raises:
            DataError: counts that do not fit.
        """
        if features.shape[0] != targets.shape[0]:
            raise DataError(f"{features.shape[0]} statistics and {targets.shape[0]} teacher embeddings do not fit")
        x, y = features.double().cpu(), targets.double().cpu()
        sums = [x.sum(dim=0), y.sum(dim=0), x.T @ x, x.T @ y]
        self._sums = [old + new for old, new in zip(self._sums, sums, strict=True)] if self._sums else sums
        self._count += len(x)

    def result(self, embed_dim: int) -> AffineMap:
        """Return the head; outputs beyond the teacher's dim are zero until trained.

        Raises:
            DataError: fewer than two utterances.
        """
        if self._count < _FEWEST:
            raise DataError(
                f"a head cannot be fitted to the teacher's embeddings of {self._count} utterances; expected {_FEWEST}"
            )
        total_x, total_y, squares, products = self._sums
        mean, offset = total_x / self._count, total_y / self._count
        gram = squares - self._count * torch.outer(mean, mean)
        ridge = (self._shrinkage * gram.diagonal().mean()).clamp(min=1e-12)
        gram = gram + ridge * torch.eye(len(gram), dtype=gram.dtype)
        weight = torch.linalg.solve(gram, products - self._count * torch.outer(mean, offset)).T
        return AffineMap(weight, offset - weight @ mean).first(embed_dim)

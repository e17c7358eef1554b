"""A loss that needs no labels: cosines of every prefix follow those of a teacher's full embedding."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrl.errors import InputError
from mrl.matryoshka.per_dim import PerDim, checked_loss_dims, normalised_weights


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

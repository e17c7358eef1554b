"""Losses that compare the crops of a batch with each other instead of with a vector for each training speaker.

They need no class matrix, so their cost does not grow with the number of speakers, but several crops of each speaker in a batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from mrl.errors import InputError
from mrl.matryoshka.class_objectives import check_scale, lowered
from mrl.matryoshka.objectives import chosen

_SMALLEST_SCALE = 1e-6


class PairObjective(Protocol):
    """A loss on the embeddings of a batch; ``compares_crops`` is true, see :mod:`mrl.matryoshka.objectives`."""

    def evaluate(self, vectors: Tensor, labels: Tensor, margin: float, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss with its gradient, and the accuracy.

        Args:
            vectors: ``(batch, dim)``, not normalised.
            labels: ``(batch,)`` speakers.
            margin: angle in radians that is added to the angles of the same speaker; 0 in the papers.
            scale: scalar that cosines are multiplied by.

        Raises:
            InputError: no speaker is in the batch twice.
        """
        ...

    def uninformed_loss(self, speakers: int, crops: int, margin: float, scale: float) -> float:
        """Return the loss where all cosines are 0, in a batch with this many speakers and crops of each."""
        ...


@dataclass(frozen=True)
class AngularPrototypical:
    """Angular prototypical loss (Chung et al., arXiv 2003.11982).

    The last crop of each speaker is the query, the mean of the others the prototype; each query must find its prototype among
    those of all speakers in the batch, by a softmax over cosines with a learnable scale. A speaker with one crop only is a
    prototype for others. The published loss has a learnable bias too, which is the same for all logits of a softmax and cancels.

    Attributes:
        scale: where the learnable scale starts.
        margin: where a schedule starts from, radians.
    """

    scale: float = 10.0
    margin: float = 0.2
    compares_crops: ClassVar[bool] = True
    learns_scale: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_scale(self.scale)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> AngularPrototypical:
        """Take what concerns this objective from the section ``loss``."""
        return cls(**chosen(settings, scale="scale", margin="margin"))

    def evaluate(self, vectors: Tensor, labels: Tensor, margin: float, scale: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`PairObjective.evaluate`."""
        speakers, index, counts = torch.unique(labels, return_inverse=True, return_counts=True)
        _require_pairs(counts, labels)
        place = torch.arange(len(labels), device=labels.device)
        last = torch.zeros_like(counts).scatter_reduce_(0, index, place, "amax", include_self=False)
        several = counts > 1
        queries = last[several]
        support = torch.ones(len(labels), dtype=vectors.dtype, device=labels.device)
        support[queries] = 0.0
        sums = vectors.new_zeros(len(speakers), vectors.shape[1]).index_add(0, index, vectors * support.unsqueeze(1))
        prototypes = sums / (counts - several.long()).unsqueeze(1)
        cosines = functional.normalize(vectors[queries], dim=1) @ functional.normalize(prototypes, dim=1).T
        own = several.nonzero()
        target = cosines.gather(1, own)
        logits = scale.clamp(min=_SMALLEST_SCALE) * cosines.scatter(1, own, _with_margin(target, margin))
        with torch.no_grad():
            accuracy = (target > cosines.scatter(1, own, -math.inf).amax(dim=1, keepdim=True)).float().mean()
        return functional.cross_entropy(logits, own.squeeze(1)), accuracy

    def uninformed_loss(self, speakers: int, crops: int, margin: float, scale: float) -> float:
        """See :meth:`PairObjective.uninformed_loss`."""
        own = -max(scale, _SMALLEST_SCALE) * math.sin(margin)
        return math.log(math.exp(own) + speakers - 1) - own


@dataclass(frozen=True)
class SupervisedContrastive:
    """Supervised contrastive loss, the mean over positives outside the logarithm (Khosla et al., arXiv 2004.11362, L_out).

    Each crop must find every other crop of its speaker among all other crops of the batch. The scale is one over the paper's
    temperature. A margin is added to the angles of all positives (as arXiv 2404.14913 does for its contrastive loss).

    Attributes:
        scale: what cosines are multiplied by.
        margin: where a schedule starts from, radians.
    """

    scale: float = 1.0 / 0.07
    margin: float = 0.2
    compares_crops: ClassVar[bool] = True
    learns_scale: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_scale(self.scale)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> SupervisedContrastive:
        """Take what concerns this objective from the section ``loss``."""
        return cls(**chosen(settings, scale="scale", margin="margin"))

    def evaluate(self, vectors: Tensor, labels: Tensor, margin: float, scale: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`PairObjective.evaluate`."""
        itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        positive = (labels.unsqueeze(0) == labels.unsqueeze(1)) & ~itself
        counts = positive.sum(dim=1)
        _require_pairs(counts + 1, labels)
        unit = functional.normalize(vectors, dim=1)
        cosines = unit @ unit.T
        logits = scale * torch.where(positive, _with_margin(cosines, margin), cosines)
        log_shares = logits - logits.masked_fill(itself, -math.inf).logsumexp(dim=1, keepdim=True)
        anchors = counts > 0
        losses = -(log_shares * positive).sum(dim=1)[anchors] / counts[anchors]
        with torch.no_grad():
            best = cosines.masked_fill(~positive, -math.inf).amax(dim=1)
            others = cosines.masked_fill(positive | itself, -math.inf).amax(dim=1)
            accuracy = (best > others)[anchors].float().mean()
        return losses.mean(), accuracy

    def uninformed_loss(self, speakers: int, crops: int, margin: float, scale: float) -> float:
        """See :meth:`PairObjective.uninformed_loss`."""
        own, positives = -scale * math.sin(margin), crops - 1
        return math.log(positives * math.exp(own) + (speakers - 1) * crops) - own


def _with_margin(cosines: Tensor, margin: float) -> Tensor:
    if margin == 0.0:
        return cosines
    with torch.no_grad():
        moved, slopes = lowered(cosines, margin)
    # the value of the moved cosine with its slope as the gradient
    return moved + slopes * (cosines - cosines.detach())


def _require_pairs(counts: Tensor, labels: Tensor) -> None:
    if not bool((counts > 1).any()):
        raise InputError(
            f"no speaker stands twice in this batch of {len(labels)}, but this loss compares crops of one speaker; "
            "set data.crops_per_speaker to 2 or more and the batch size to a multiple of it"
        )

"""Margin softmax that gives weight to the speakers an embedding is mistaken for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mrl.errors import InputError
from mrl.matryoshka.class_objectives import ObjectiveValue, check_scale, lowered
from mrl.matryoshka.objectives import chosen


@dataclass(frozen=True)
class MisclassifiedVectorSoftmax:
    """MV-Arc-Softmax, adaptive form (Wang et al., AAAI 2020, arXiv 1912.00833).

    The own class has the logit ``s cos(angle + m)``, as in AAM-Softmax. Another class whose cosine exceeds ``cos(angle + m)`` is
    one that the embedding is mistaken for: its logit is ``s ((1 + t) cos + t)``; all others keep ``s cos``.

    Attributes:
        scale: ``s``.
        emphasis: ``t``, 0 is AAM-Softmax; the authors' code uses 0.12.
        margin: where a schedule starts from, radians; the margin of an evaluation is given with it.
        weights: ``(classes,)``, how many classes each stands for where they are a sample; None: one each.

    Raises:
        InputError: an attribute outside its range.
    """

    scale: float = 30.0
    emphasis: float = 0.12
    margin: float = 0.2
    weights: Tensor | None = dataclasses.field(default=None, compare=False)

    def __post_init__(self) -> None:
        check_scale(self.scale)
        if not 0.0 <= self.emphasis <= 1.0:
            raise InputError(f"mv_emphasis={self.emphasis} cannot be used; expected a weight from 0 to 1")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> MisclassifiedVectorSoftmax:
        """Take what concerns this objective from the section ``loss``."""
        return cls(**chosen(settings, scale="scale", emphasis="mv_emphasis", margin="margin"))

    def with_weighted_negatives(self, weights: Tensor) -> MisclassifiedVectorSoftmax:
        """Return the objective with the exponentials of other speakers' classes times ``weights`` in the softmax."""
        return dataclasses.replace(self, weights=weights)

    def evaluate(self, cosines: Tensor, labels: Tensor, margin: float, bias: Tensor | None = None) -> ObjectiveValue:
        """See :meth:`mrl.matryoshka.class_objectives.ClassObjective.evaluate`."""
        index = labels.unsqueeze(1)
        target = cosines.gather(1, index)
        moved, slope = lowered(target, margin)
        accuracy = (target > cosines.scatter(1, index, -math.inf).amax(dim=1, keepdim=True)).float().mean()
        slopes = (cosines > moved).to(cosines.dtype).mul_(self.emphasis).add_(1.0)
        logits = (cosines * slopes + (slopes - 1.0)).scatter_(1, index, moved).mul_(self.scale)
        highest = logits.amax(dim=1, keepdim=True)
        powers = logits.sub_(highest).exp_()
        own = powers.gather(1, index)
        if self.weights is not None:
            powers.mul_(self.weights.to(powers)).scatter_(1, index, own)
        total = powers.sum(dim=1, keepdim=True)
        losses = total.log() + highest - self.scale * moved
        powers.mul_(slopes).scatter_(1, index, (own - total) * slope)
        return ObjectiveValue(losses.mean(), accuracy, powers, self.scale / (len(labels) * total))

    def uninformed_loss(self, num_classes: int, margin: float) -> float:
        """See :meth:`mrl.matryoshka.class_objectives.ClassObjective.uninformed_loss`."""
        own = -self.scale * math.sin(margin)
        others = (num_classes - 1) * math.exp(self.scale * self.emphasis if margin > 0.0 else 0.0)
        return math.log(math.exp(own) + others) - own

"""Angular margins: how far a speaker's embedding must lie inside its own class before the loss is satisfied.

AAM-Softmax (ArcFace): Deng et al., https://arxiv.org/abs/1801.07698. Sub-centres: Deng et al., ECCV 2020.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_COSINE_LIMIT = 1.0 - 1e-7


def additive_angular_logits(cosines: Tensor, labels: Tensor, margin: float, scale: float) -> Tensor:
    """Turn cosines into logits whose target angle is enlarged by ``margin``.

    Args:
        cosines: ``(batch, classes)`` between embeddings and classes.
        labels: ``(batch,)`` class of each embedding.
        margin: angle in radians; beyond an angle of ``pi - margin`` the target's logit goes on falling linearly, so that the
            gradient never turns back.
        scale: what cosines are multiplied by before the softmax.

    Returns:
        ``(batch, classes)``.
    """
    if margin == 0.0:
        return scale * cosines
    target = cosines.gather(1, labels.unsqueeze(1)).clamp(-_COSINE_LIMIT, _COSINE_LIMIT)
    sine = (1.0 - target.square()).sqrt()
    moved = target * math.cos(margin) - sine * math.sin(margin)
    moved = torch.where(target > math.cos(math.pi - margin), moved, target - math.sin(math.pi - margin) * margin)
    return scale * cosines.scatter(1, labels.unsqueeze(1), moved)


def closest_subcenter(cosines: Tensor, num_subcenters: int) -> Tensor:
    """``(batch, classes * num_subcenters)`` -> ``(batch, classes)``: each class is as near as its nearest sub-centre."""
    if num_subcenters == 1:
        return cosines
    return cosines.view(len(cosines), -1, num_subcenters).amax(dim=2)


def uninformed_loss(num_classes: int, margin: float, scale: float) -> float:
    """Return the loss of embeddings orthogonal to every class: what a head that has learnt nothing starts from."""
    penalty = scale * math.sin(margin)
    return penalty + math.log(math.exp(-penalty) + num_classes - 1)


def cross_entropy_and_accuracy(cosines: Tensor, labels: Tensor, margin: float, scale: float) -> tuple[Tensor, Tensor]:
    """Return the mean loss with margin, and the share of utterances whose nearest class is their own, without margin."""
    loss = functional.cross_entropy(additive_angular_logits(cosines, labels, margin, scale), labels)
    with torch.no_grad():
        accuracy = (cosines.argmax(dim=1) == labels).float().mean()
    return loss, accuracy

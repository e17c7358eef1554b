"""Angular margins: how far a speaker's embedding must lie inside its own class before the loss is satisfied.

Each function takes cosines and returns the moved cosines together with their slopes (the derivative of the one by the other), for
losses that write down their own gradient. Margins are angles in radians.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_COSINE_LIMIT = 1.0 - 1e-7


def lowered(cosines: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Enlarge the angle by ``margin``: ``cos(angle + margin)``, for the embedding's own class (ArcFace, arXiv 1801.07698).

    Beyond an angle of ``pi - margin`` the result goes on falling linearly, so that the gradient never turns back.

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

    At angles below ``margin`` the result goes on rising linearly: a class of another speaker that lies on the embedding itself
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

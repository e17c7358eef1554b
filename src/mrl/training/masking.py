"""SpecAugment in a run: the masks of a crop follow from the seed and its draw alone.

So they are the same for any number of processes and split of the batch, and after a resume.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np
import torch

from mrl.backbone import SpecAugment
from mrl.data import Draw
from mrl.matryoshka import ReDimNetMRL
from mrl.training.config import SpecAugmentConfig

_MASKS = 6  # keeps the random stream of the masks apart from those of crops and order


def set_spec_augment(config: SpecAugmentConfig, encoder: ReDimNetMRL) -> None:
    """Let the front end mask its features, or no longer; the teacher is another network without."""
    masks = SpecAugment(
        frequency_masks=config.frequency_masks,
        frequency_width=config.frequency_width,
        time_masks=config.time_masks,
        time_width=config.time_width,
    )
    encoder.backbone.front_end.spec_augment = masks if masks.numbers_per_item else None
    encoder.train(encoder.training)  # a new part begins in training mode, even in a frozen backbone


def draw_masks(encoder: ReDimNetMRL, draws: Sequence[Draw], seed: int) -> torch.Tensor | None:
    """Return the random numbers (len(draws), numbers_per_item) of the masks of these crops; None if nothing is masked."""
    masks = encoder.backbone.front_end.spec_augment
    if masks is None:
        return None
    numbers = np.empty((len(draws), masks.numbers_per_item), dtype=np.float32)
    for row, draw in zip(numbers, draws, strict=True):
        np.random.default_rng((seed, draw.epoch, draw.position, _MASKS)).random(out=row, dtype=np.float32)
    return torch.from_numpy(numbers)


def masked_by(encoder: ReDimNetMRL, numbers: torch.Tensor | None) -> contextlib.AbstractContextManager[None]:
    """Return a context in which the front end masks by what :func:`draw_masks` gave, on the encoder's device."""
    masks = encoder.backbone.front_end.spec_augment
    return contextlib.nullcontext() if masks is None or numbers is None else masks.drawn(numbers)

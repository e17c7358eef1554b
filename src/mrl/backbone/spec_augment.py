"""SpecAugment: random bands and stretches of time of the features are hidden while the network trains.

Source: Park et al., "SpecAugment", Interspeech 2019, https://arxiv.org/abs/1904.08779 (masks only, no time warping).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mrl.errors import InputError


class SpecAugment(nn.Module):
    """Masks log-mel features ``(batch, frames, bands)``, every item differently; does nothing in eval mode.

    What is hidden becomes 0, the mean of features that are normalised over time. Each mask's width is drawn evenly from 0 to the
    most, its place evenly from where it fits. All is drawn from torch's global generator of the features' device: a checkpoint
    that keeps the generators' states keeps the masks to come.

    It has neither parameters nor buffers, so that a network has the same ``state_dict`` with and without it.

    Args:
        frequency_masks, frequency_width: how many masks over bands, and the most bands of each.
        time_masks, time_width: how many masks over time, and the most frames of each.

    Raises:
        InputError: a number is negative.
    """

    def __init__(self, *, frequency_masks: int = 0, frequency_width: int = 8, time_masks: int = 0, time_width: int = 20) -> None:
        super().__init__()
        if min(frequency_masks, frequency_width, time_masks, time_width) < 0:
            raise InputError(
                f"SpecAugment: {frequency_masks} masks of {frequency_width} bands and {time_masks} of {time_width} frames, "
                "expected 0 or more of each"
            )
        self.frequency_masks = frequency_masks
        self.frequency_width = frequency_width
        self.time_masks = time_masks
        self.time_width = time_width

    def forward(self, features: Tensor) -> Tensor:
        """Return masked features ``(batch, frames, bands)``; in eval mode the very same ones."""
        if not self.training:
            return features
        batch, frames, bands = features.shape
        in_time = _hidden(batch, frames, self.time_masks, self.time_width, features.device)
        in_frequency = _hidden(batch, bands, self.frequency_masks, self.frequency_width, features.device)
        return features.masked_fill(in_time[:, :, None] | in_frequency[:, None, :], 0.0)

    def extra_repr(self) -> str:
        return (
            f"frequency_masks={self.frequency_masks}, frequency_width={self.frequency_width}, "
            f"time_masks={self.time_masks}, time_width={self.time_width}"
        )


def _hidden(batch: int, size: int, masks: int, most: int, device: torch.device) -> Tensor:
    """Return ``(batch, size)`` booleans, true where one of ``masks`` random stretches of at most ``most`` lies."""
    width = (torch.rand(batch, masks, 1, device=device) * (min(most, size) + 1)).long()
    start = (torch.rand(batch, masks, 1, device=device) * (size - width + 1)).long()
    position = torch.arange(size, device=device)
    return ((position >= start) & (position < start + width)).any(dim=1)

"""SpecAugment: random bands and stretches of time of the features are hidden while the network trains.

Source: Park et al., "SpecAugment", Interspeech 2019, https://arxiv.org/abs/1904.08779 (masks only, no time warping).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mrl.errors import InputError


class SpecAugment(nn.Module):
    """Masks log-mel features ``(batch, frames, bands)``, every item differently.

    What is hidden becomes 0, the mean of features that are normalised over time. Each mask's width is drawn evenly from 0 to the
    most, its place evenly from where it fits. The random numbers are those that :meth:`drawn` gives; without such, torch's global
    generator of the features' device gives them in training mode, and in eval mode nothing is masked.

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
        self._given: Tensor | None = None

    @property
    def numbers_per_item(self) -> int:
        """How many random numbers the masks of one item take."""
        return 2 * (self.time_masks + self.frequency_masks)

    @contextlib.contextmanager
    def drawn(self, numbers: Tensor) -> Iterator[None]:
        """Mask by these random numbers while the block runs, in eval mode too: a frozen backbone is always in that.

        Numbers that belong to the items make the masks the same in whatever batches the items stand.

        Args:
            numbers: ``(batch, numbers_per_item)`` float32, from 0 to below 1, for the batch of every forward pass in the block.
        """
        self._given = numbers
        try:
            yield
        finally:
            self._given = None

    def forward(self, features: Tensor) -> Tensor:
        """Return masked features ``(batch, frames, bands)``, or the very same ones where nothing is to be masked."""
        numbers = self._given
        if numbers is None:
            if not self.training:
                return features
            numbers = torch.rand(features.shape[0], self.numbers_per_item, device=features.device)
        _, frames, bands = features.shape
        border = 2 * self.time_masks
        in_time = _hidden(frames, numbers[:, :border], self.time_width)
        in_frequency = _hidden(bands, numbers[:, border:], self.frequency_width)
        return features.masked_fill(in_time[:, :, None] | in_frequency[:, None, :], 0.0)

    def extra_repr(self) -> str:
        return (
            f"frequency_masks={self.frequency_masks}, frequency_width={self.frequency_width}, "
            f"time_masks={self.time_masks}, time_width={self.time_width}"
        )


def _hidden(size: int, numbers: Tensor, most: int) -> Tensor:
    """Return ``(batch, size)`` booleans, true where one of the stretches of at most ``most`` lies.

    ``numbers`` ``(batch, 2 * stretches)``: those of the widths, then those of the places.
    """
    for_width, for_place = numbers.unsqueeze(2).chunk(2, dim=1)
    width = (for_width * (min(most, size) + 1)).long()
    start = (for_place * (size - width + 1)).long()
    position = torch.arange(size, device=numbers.device)
    return ((position >= start) & (position < start + width)).any(dim=1)

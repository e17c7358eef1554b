"""Keeping padding out: every operation that looks along time first sets frames beyond an utterance's end to zero.

A convolution alone sees zeros past the end of an utterance; in a padded batch it would see whatever the padding has become by
then. Setting it to zero before each convolution over time makes the result of an item in a batch that of the item alone.
"""

from __future__ import annotations

from torch import Tensor


def hide_padding(features: Tensor, mask: Tensor | None) -> Tensor:
    """Set padding to zero. ``mask`` broadcasts against ``features`` and is true inside; None: nothing is padded."""
    return features if mask is None else features.masked_fill(~mask, 0.0)


def map_mask(mask: Tensor | None) -> Tensor | None:
    """Turn a ``(batch, frames)`` mask into one for maps ``(batch, channels, frames, bands)``."""
    return None if mask is None else mask[:, None, :, None]

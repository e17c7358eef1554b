"""Working off a batch in groups that fit the processor's cache, for inference on a CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mrl.backbone.frontend import frame_mask
from mrl.lengths import group_by_length

# The largest map of a group, in values per thread: 3 MiB. On a quiet machine with two cores groups neither gain nor cost time
# for b0, b2 and b5 up to 16 recordings of 3 s; on a busy one they gained up to a fifth for b5. They bound the memory either way.
_NUMBERS_PER_THREAD = 3 * 2**18


def pool_in_groups(
    pool: Callable[[Tensor, Tensor | None], Tensor], features: Tensor, num_frames: Tensor | None, numbers_per_frame: int
) -> Tensor:
    """Return ``pool(features, mask)`` for the whole batch, computed in groups that fit the processor's cache.

    In a large batch every operation fetches its input from main memory and writes its output back there. A few recordings at a
    time stay in cache, and need less memory. Recordings of like length go together, cut to the longest of their group, so that
    little time is lost on padding.

    Args:
        pool: from features ``(group, frames, bands)`` and mask ``(group, frames)`` or None to statistics ``(group, pooled)``.
        features: ``(batch, frames, bands)``, padded where ``num_frames`` says so.
        num_frames: ``(batch,)`` frames per item; None: all are full.
        numbers_per_frame: how many numbers the largest map holds per frame.

    Returns:
        ``(batch, pooled)``, in the order of ``features``.
    """
    counts = [features.shape[1]] * features.shape[0] if num_frames is None else num_frames.tolist()
    groups = group_by_length(counts, _NUMBERS_PER_THREAD * torch.get_num_threads() // numbers_per_frame)
    pooled: list[Tensor] = [features] * len(counts)
    for group in groups:
        longest = counts[group[0]]
        padded = counts[group[-1]] != longest
        mask = frame_mask(torch.tensor([counts[item] for item in group]), longest) if padded else None
        for item, row in zip(group, pool(features[group, :longest], mask), strict=True):
            pooled[item] = row
    return torch.stack(pooled)

"""Dividing items by their lengths: into batches that waste little on padding, and into shares of nearly equal work."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence


def group_by_length(
    lengths: Sequence[float], most: float, *, most_items: int | None = None, equal: bool = False
) -> list[list[int]]:
    """Divide items into groups of similar length, longest first, so that what is too large for memory shows at once.

    Args:
        lengths: of each item, in any unit.
        most: the largest group, counted as padded (longest x number) in the same unit; a longer item is a group of its own.
        most_items: the most items in a group; any number by default.
        equal: keep items of different length apart, for networks that cannot mask padding.

    Returns:
        The positions of each group's items, longest first and otherwise in the order given.
    """
    groups: list[list[int]] = []
    for item in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        group = groups[-1] if groups else []
        longest = lengths[group[0]] if group else 0
        fits = longest * (len(group) + 1) <= most and (most_items is None or len(group) < most_items)
        if group and fits and not (equal and lengths[item] != longest):
            group.append(item)
        else:
            groups.append([item])
    return groups


def split_by_length(lengths: Mapping[int, float], num_shares: int) -> list[list[int]]:
    """Divide items into shares of nearly equal total length: each, from the longest on, goes to the shortest share so far.

    The totals of the shares differ by the longest item at most. The same lengths give the same shares in every process.

    Args:
        lengths: of each item, by its number.
        num_shares: number of shares.

    Returns:
        The numbers in each share, ascending.
    """
    shares: list[list[int]] = [[] for _ in range(num_shares)]
    totals = [(0.0, 0, share) for share in range(num_shares)]
    for index in sorted(lengths, key=lambda index: (-lengths[index], index)):
        total, count, share = totals[0]
        shares[share].append(index)
        heapq.heapreplace(totals, (total + lengths[index], count + 1, share))
    return [sorted(share) for share in shares]

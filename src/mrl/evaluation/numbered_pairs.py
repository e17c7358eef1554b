"""Pairs of speakers or of recordings, numbered, so that some can be drawn without writing all of them down."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


class NumberedPairs:
    """Pairs of different members within groups, or across groups.

    Attributes:
        count: number of pairs; they are numbered 0..count-1.
    """

    def __init__(self, within: Sequence[Indices], between: Sequence[tuple[Indices, Indices]]) -> None:
        """Take the pairs inside each group of ``within``, and those of one speaker of each side of ``between``."""
        self._blocks: list[tuple[Indices, Indices | None]] = [(group, None) for group in within]
        self._blocks += list(between)
        sizes = [len(a) * (len(a) - 1) // 2 if b is None else len(a) * len(b) for a, b in self._blocks]
        self._starts = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
        self.count = int(self._starts[-1])

    @classmethod
    def of(cls, groups: Sequence[Indices], *, same: bool) -> NumberedPairs:
        """Return all pairs inside the groups (``same``), or all pairs across them."""
        if same:
            return cls(groups, [])
        return cls([], [(one, two) for place, one in enumerate(groups) for two in groups[place + 1 :]])

    def members(self, numbers: Indices) -> tuple[Indices, Indices]:
        """Return the two members of each numbered pair."""
        first, second = np.empty(len(numbers), dtype=np.int64), np.empty(len(numbers), dtype=np.int64)
        block_of = np.searchsorted(self._starts, numbers, side="right") - 1
        for block in np.unique(block_of).tolist():
            here = block_of == block
            inside = numbers[here] - self._starts[block]
            one, two = self._blocks[block]
            if two is None:
                low, high = unrank_pairs(inside)
                first[here], second[here] = one[low], one[high]
            else:
                first[here], second[here] = one[inside // len(two)], two[inside % len(two)]
        return first, second


def unrank_pairs(numbers: Indices) -> tuple[Indices, Indices]:
    """Return ``(i, j)``, i < j, of numbered pairs in the order (0,1), (0,2), (1,2), (0,3), ..."""
    high = ((1.0 + np.sqrt(1.0 + 8.0 * numbers.astype(np.float64))) / 2.0).astype(np.int64)
    high -= high * (high - 1) // 2 > numbers  # the square root may be off by one
    high += (high + 1) * high // 2 <= numbers
    return numbers - high * (high - 1) // 2, high


def equal_shares(capacities: Indices, total: int, generator: np.random.Generator) -> Indices:
    """Spread ``total`` over groups as evenly as their capacities allow; what does not divide evenly goes to random groups.

    The sum of the shares is ``min(total, capacities.sum())``.
    """
    total = min(total, int(capacities.sum()))
    shares = np.zeros(len(capacities), dtype=np.int64)
    left = total
    while left:
        open_groups = np.flatnonzero(shares < capacities)
        each = left // len(open_groups)
        if each == 0:
            shares[generator.choice(open_groups, left, replace=False)] += 1
            return shares
        added = np.minimum(capacities[open_groups] - shares[open_groups], each)
        shares[open_groups] += added
        left -= int(added.sum())
    return shares

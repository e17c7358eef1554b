"""Making trial lists from recordings whose speakers are known.

:func:`make_trials` pairs everything, or draws at random; :func:`make_balanced_trials` lets no speaker outweigh the others and
holds a chosen share of same-gender pairs. Recordings of manifests and folders are found by :mod:`mrl.data.trial_source`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from itertools import combinations, product

import numpy as np
import numpy.typing as npt

from mrl.errors import DataError, InputError
from mrl.files import write_text
from mrl.trials.lists import TrialList

Indices = npt.NDArray[np.int64]


class NumberedPairs:
    """Numbered pairs of different members (speakers or recordings), so that some can be drawn without listing all of them.

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
        return cls([], [(first, second) for place, first in enumerate(groups) for second in groups[place + 1 :]])

    def members(self, numbers: Indices) -> tuple[Indices, Indices]:
        """Return the two members of each numbered pair."""
        first, second = np.empty(len(numbers), dtype=np.int64), np.empty(len(numbers), dtype=np.int64)
        block_of = np.searchsorted(self._starts, numbers, side="right") - 1
        for block in np.unique(block_of).tolist():
            inside_block = block_of == block
            inside = numbers[inside_block] - self._starts[block]
            left, right = self._blocks[block]
            if right is None:
                low, high = unrank_pairs(inside)
                first[inside_block], second[inside_block] = left[low], left[high]
            else:
                first[inside_block], second[inside_block] = left[inside // len(right)], right[inside % len(right)]
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


def make_trials(
    utterances: Mapping[str, Sequence[str]], *, max_targets: int = 10_000, max_nontargets: int = 50_000, seed: int = 0
) -> TrialList:
    """Pair recordings: all pairs of one speaker and of two speakers, or a random choice where these are too many.

    Args:
        utterances: speaker -> recordings, named as the list shall name them.
        max_targets, max_nontargets: most trials of the two kinds.
        seed: of the choice; the same recordings and seed give the same list.

    Raises:
        DataError: fewer than two speakers, or none with two recordings.
    """
    generator = np.random.default_rng(seed)
    speakers = sorted(utterances)
    targets = [pair for speaker in speakers for pair in combinations(sorted(utterances[speaker]), 2)]
    if len(speakers) < 2 or not targets:
        raise DataError(
            f"{len(speakers)} speakers with {len(targets)} pairs of one speaker make no trials; "
            "needed: two speakers, one of them with two recordings"
        )
    if len(targets) > max_targets:
        targets = [targets[index] for index in sorted(generator.choice(len(targets), max_targets, replace=False))]
    names = [(speaker, name) for speaker in speakers for name in sorted(utterances[speaker])]
    nontargets = _pairs_of_two_speakers(names, max_nontargets, generator)
    pairs = [(True, *pair) for pair in targets] + [(False, *pair) for pair in nontargets]
    return TrialList.from_pairs(pairs, source=f"made from {len(names)} recordings of {len(speakers)} speakers, seed {seed}")


def write_trials(trials: TrialList, path: str | os.PathLike[str]) -> None:
    """Write a list as ``label path1 path2`` per line, label 1 for one speaker.

    Raises:
        DataError: a name has white space, which such a list cannot hold.
    """
    names = trials.utterances
    unusable = [name for name in names if name.split() != [name]]
    if unusable:
        raise DataError(
            f"{len(unusable)} of {len(names)} recordings have white space in their names, which a trial list cannot hold; "
            f"rename them, the first is {unusable[0]!r}"
        )
    lines = [
        f"{int(label)} {names[first]} {names[second]}\n"
        for label, first, second in zip(trials.labels, trials.enrol, trials.test, strict=True)
    ]
    write_text(path, "".join(lines))


def _pairs_of_two_speakers(names: Sequence[tuple[str, str]], most: int, generator: np.random.Generator) -> list[tuple[str, str]]:
    by_speaker: dict[str, list[str]] = {}
    for speaker, name in names:
        by_speaker.setdefault(speaker, []).append(name)
    sizes = [len(members) for members in by_speaker.values()]
    different = (sum(sizes) ** 2 - sum(size * size for size in sizes)) // 2
    if different <= 4 * most:
        pairs = [pair for left, right in combinations(by_speaker.values(), 2) for pair in product(left, right)]
        if len(pairs) <= most:
            return pairs
        return [pairs[index] for index in sorted(generator.choice(len(pairs), most, replace=False))]
    # Too many to write down: draw until enough different ones are there.
    drawn: set[tuple[int, int]] = set()
    while len(drawn) < most:
        first, second = (int(value) for value in generator.integers(len(names), size=2))
        if names[first][0] != names[second][0]:
            drawn.add((min(first, second), max(first, second)))
    return [(names[first][1], names[second][1]) for first, second in sorted(drawn)]


def make_balanced_trials(
    utterances: Mapping[str, Sequence[str]],
    *,
    max_targets: int = 10_000,
    max_nontargets: int = 50_000,
    genders: Mapping[str, str] | None = None,
    same_gender_share: float | None = None,
    sessions: Mapping[str, str] | None = None,
    seed: int = 0,
) -> TrialList:
    """Draw trials so that every speaker gives as many same-speaker trials as every other, and every pair of speakers likewise.

    Speakers (or pairs) with too few recordings give all they have, and the others more. Where the limits exceed what there is,
    all pairs are taken (fewer with ``same_gender_share``, which is held).

    Args:
        utterances: speaker -> recordings, named as the list shall name them.
        max_targets, max_nontargets: most trials of the two kinds.
        genders: speaker -> gender, in any words; needed for ``same_gender_share``.
        same_gender_share: share of different-speaker trials between speakers of one gender, in 0..1. Lists with 1 are harder
            than mixed ones (VoxCeleb1-H); None lets the speakers decide.
        sessions: recording -> session. With it the two recordings of a same-speaker trial are of different sessions: those of
            one session share microphone, room and mood, and are easy.
        seed: of the choice; the same recordings and seed give the same list.

    Raises:
        DataError: fewer than two speakers, none with two recordings, speakers without a gender, or a share that they do
            not allow.
        InputError: a limit below 1, or a share outside 0..1 or without genders.
    """
    if max_targets < 1 or max_nontargets < 1:
        raise InputError(f"a trial list needs at least one trial of each kind; found limits {max_targets} and {max_nontargets}")
    if same_gender_share is not None and (genders is None or not 0.0 <= same_gender_share <= 1.0):
        raise InputError(f"same_gender_share lies in 0..1 and needs genders; found {same_gender_share}")
    generator = np.random.default_rng(seed)
    names = sorted(speaker for speaker in utterances if utterances[speaker])
    recordings = [sorted(utterances[speaker]) for speaker in names]
    sizes = np.array([len(own) for own in recordings], dtype=np.int64)
    if len(names) < 2 or not (sizes > 1).any():
        raise DataError(
            f"{len(names)} speakers with {int((sizes > 1).sum())} of them having two recordings make no trials; "
            "needed: two speakers, one of them with two recordings"
        )
    pairs: list[tuple[bool, str, str]] = []
    own_pairs = [_pairs_of_one_speaker(own, sessions) for own in recordings]
    capacities = np.array([pool.count for pool in own_pairs], dtype=np.int64)
    if not capacities.any():
        raise DataError("no speaker has recordings of two sessions, so no same-speaker trials can be made across sessions")
    for own, pool, share in zip(recordings, own_pairs, equal_shares(capacities, max_targets, generator).tolist(), strict=True):
        first, second = pool.members(_draw(pool.count, share, generator))
        pairs += [(True, own[left], own[right]) for left, right in zip(first.tolist(), second.tolist(), strict=True)]
    for pool, most in _pools(names, sizes, genders, same_gender_share, max_nontargets):
        pairs += [(False, *pair) for pair in _different(pool, most, recordings, sizes, generator)]
    number = sum(map(len, recordings))
    return TrialList.from_pairs(pairs, source=f"drawn from {number} recordings of {len(names)} speakers, seed {seed}")


def _pairs_of_one_speaker(own: Sequence[str], sessions: Mapping[str, str] | None) -> NumberedPairs:
    if sessions is None:
        return NumberedPairs.of([np.arange(len(own), dtype=np.int64)], same=True)
    unknown = [name for name in own if not sessions.get(name)]
    if unknown:
        raise DataError(f"{len(unknown)} recordings of one speaker have no session, the first is {unknown[0]!r}")
    kinds = sorted({sessions[name] for name in own})
    groups = [np.array([place for place, name in enumerate(own) if sessions[name] == kind], dtype=np.int64) for kind in kinds]
    return NumberedPairs.of(groups, same=False)


def _pools(
    names: Sequence[str],
    sizes: Indices,
    genders: Mapping[str, str] | None,
    share: float | None,
    most: int,
) -> list[tuple[NumberedPairs, int]]:
    """The pairs of speakers to draw from, with the number of trials from each."""
    everyone = np.arange(len(names), dtype=np.int64)
    if genders is None or share is None:
        return [(NumberedPairs.of([everyone], same=True), most)]
    unknown = [name for name in names if not genders.get(name)]
    if unknown:
        raise DataError(f"{len(unknown)} of {len(names)} speakers have no gender, the first is {unknown[0]!r}")
    kinds = sorted({genders[name] for name in names})
    groups = [np.array([place for place, name in enumerate(names) if genders[name] == kind], dtype=np.int64) for kind in kinds]
    totals = [int(sizes[group].sum()) for group in groups]
    inside = sum((total**2 - int((sizes[group] ** 2).sum())) // 2 for total, group in zip(totals, groups, strict=True))
    across = (sum(totals) ** 2 - sum(total**2 for total in totals)) // 2
    limit = min(most, *(math.floor(there / part) for there, part in ((inside, share), (across, 1.0 - share)) if part > 0))
    same = min(round(share * limit), inside)
    other = min(limit - same, across)
    if same + other == 0:
        raise DataError(
            f"no different-speaker trials with a same-gender share of {share:g}: the speakers allow {inside} pairs of one gender "
            f"and {across} of two (genders found: {', '.join(kinds)})"
        )
    return [(NumberedPairs.of(groups, same=True), same), (NumberedPairs.of(groups, same=False), other)]


def _different(
    pool: NumberedPairs, most: int, recordings: Sequence[Sequence[str]], sizes: Indices, generator: np.random.Generator
) -> list[tuple[str, str]]:
    if not most:
        return []
    if most <= pool.count:  # at most one trial for each pair of speakers
        first, second = pool.members(np.sort(_draw(pool.count, most, generator)))
        left, right = generator.integers(sizes[first]), generator.integers(sizes[second])
        rows = zip(first.tolist(), second.tolist(), left.tolist(), right.tolist(), strict=True)
        return [(recordings[a][i], recordings[b][j]) for a, b, i, j in rows]
    first, second = pool.members(np.arange(pool.count, dtype=np.int64))
    shares = equal_shares(sizes[first] * sizes[second], most, generator)
    pairs = []
    for a, b, share in zip(first.tolist(), second.tolist(), shares.tolist(), strict=True):
        numbers = _draw(int(sizes[a] * sizes[b]), share, generator)
        pairs += [(recordings[a][number // int(sizes[b])], recordings[b][number % int(sizes[b])]) for number in numbers.tolist()]
    return pairs


def _draw(count: int, number: int, generator: np.random.Generator) -> Indices:
    """Different numbers below ``count`` in ascending order."""
    if number >= count:
        return np.arange(count, dtype=np.int64)
    return np.sort(generator.choice(count, number, replace=False)).astype(np.int64)

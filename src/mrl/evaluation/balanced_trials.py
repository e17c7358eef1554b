"""Trial lists in which no speaker outweighs the others, with a chosen share of same-gender pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mrl.errors import DataError, InputError
from mrl.evaluation.numbered_pairs import Indices, NumberedPairs, equal_shares
from mrl.evaluation.trials import TrialList


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
    sizes = np.array([len(one) for one in recordings], dtype=np.int64)
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
        pairs += [(True, own[one], own[two]) for one, two in zip(first.tolist(), second.tolist(), strict=True)]
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
    groups = [np.array([one for one, name in enumerate(names) if genders[name] == kind], dtype=np.int64) for kind in kinds]
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
        one, two = generator.integers(sizes[first]), generator.integers(sizes[second])
        rows = zip(first.tolist(), second.tolist(), one.tolist(), two.tolist(), strict=True)
        return [(recordings[a][i], recordings[b][j]) for a, b, i, j in rows]
    first, second = pool.members(np.arange(pool.count, dtype=np.int64))
    shares = equal_shares(sizes[first] * sizes[second], most, generator)
    found = []
    for a, b, share in zip(first.tolist(), second.tolist(), shares.tolist(), strict=True):
        numbers = _draw(int(sizes[a] * sizes[b]), share, generator)
        found += [(recordings[a][number // int(sizes[b])], recordings[b][number % int(sizes[b])]) for number in numbers.tolist()]
    return found


def _draw(count: int, number: int, generator: np.random.Generator) -> Indices:
    """Different numbers below ``count`` in ascending order."""
    if number >= count:
        return np.arange(count, dtype=np.int64)
    return np.sort(generator.choice(count, number, replace=False)).astype(np.int64)

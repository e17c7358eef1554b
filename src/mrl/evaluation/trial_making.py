"""Making trial lists from recordings whose speakers are known."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import combinations, product

import numpy as np

from mrl.errors import DataError
from mrl.evaluation.trials import TrialList
from mrl.files import write_text


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
        pairs = [pair for one, two in combinations(by_speaker.values(), 2) for pair in product(one, two)]
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

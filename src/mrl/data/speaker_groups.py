"""Which utterances of one speaker stand together in a batch: different ones, of different sessions where there are enough."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mrl.data.utterances import Corpus


def members_by_session(corpus: Corpus, members: Sequence[int]) -> list[list[int]]:
    """Return a speaker's utterances (positions in the corpus) by session; those without a known one count as one session."""
    sessions: dict[str, list[int]] = {}
    for member in members:
        sessions.setdefault(corpus.utterances[member].session or "", []).append(member)
    return [sessions[name] for name in sorted(sessions)]


def draw_groups(sessions: Sequence[Sequence[int]], size: int, count: int, random: np.random.Generator) -> list[list[int]]:
    """Return ``count`` groups of ``size`` utterances of one speaker, for one epoch.

    A group takes one utterance of each of ``size`` different sessions; if the speaker has fewer, it takes each session as often
    as the others, as far as its utterances go. It repeats an utterance only if the speaker has fewer than ``size``. Larger
    sessions are chosen more often: the chance is proportional to the number of utterances, up to once per group. Within an epoch
    the utterances of a session take turns, so that none is used twice before all are used once.

    Args:
        sessions: the speaker's utterances by session, none empty.
        size: utterances per group.
        count: number of groups.
        random: decides everything that is left open.
    """
    orders = [random.permutation(np.asarray(session)).tolist() for session in sessions]
    used = [0] * len(orders)
    sizes = np.array([len(order) for order in orders])
    groups = []
    for _ in range(count):
        group: list[int] = []
        for session, take in enumerate(_takes(sizes, size, random)):
            order = orders[session]
            group.extend(order[(used[session] + step) % len(order)] for step in range(take))
            used[session] += int(take)
        random.shuffle(group)
        groups.append(group)
    return groups


def _takes(sizes: npt.NDArray[np.int64], size: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return how many utterances of each session (sessions,) a group of ``size`` takes."""
    takes = np.zeros(len(sizes), dtype=np.int64)
    room = sizes.copy()
    left = size
    while left:
        if not room.any():
            room = sizes.copy()  # fewer utterances than the group takes: from the beginning
        free = np.flatnonzero(room)
        chosen = free if len(free) <= left else free[_choose(sizes[free], left, random)]
        takes[chosen] += 1
        room[chosen] -= 1
        left -= len(chosen)
    return takes


def _choose(weights: npt.NDArray[np.int64], count: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return ``count`` different indices, each with a chance proportional to its weight but at most 1 (systematic sampling)."""
    order = random.permutation(len(weights))
    chance = _chances(weights[order].astype(np.float64), count)
    ends = np.cumsum(chance)
    while True:
        found = np.searchsorted(ends, random.random() + np.arange(count), side="right")
        if found[-1] < len(order) and len(np.unique(found)) == count:  # else a mark fell into the rounding of an end
            return np.asarray(order[found])


def _chances(weights: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.float64]:
    """Return chances proportional to the weights, none above 1, that sum to ``count`` (there are more weights than that)."""
    certain = np.zeros(len(weights), dtype=bool)
    while True:
        chances = np.where(certain, 1.0, 0.0)
        open_weights = np.where(certain, 0.0, weights)
        chances += open_weights * (count - certain.sum()) / open_weights.sum()
        above = (chances >= 1.0) & ~certain
        if not above.any():
            return chances
        certain |= above

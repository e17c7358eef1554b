"""In which order utterances are drawn: the same for the same seed and epoch, on any number of processes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from mrl.data.crops import Draw
from mrl.data.utterances import Corpus
from mrl.errors import InputError

# The order for slow seeks: shard after shard, mixed within a window, the same for the same seed and epoch.


_SHARDS, _WINDOW = 3, 4  # keep the streams of random numbers apart


class ShardSampler:
    """Every utterance once in each epoch, shard after shard: network storage and spinning disks are read almost in order.

    The shards of an epoch come in random order, the utterances of each in the order of their bytes; then every utterance is put
    off by a random number of places below ``shuffle_buffer``. As with a shuffle buffer, utterances that are drawn together are
    near each other on disk (none moves by ``shuffle_buffer`` places or more); unlike with one, every draw depends on seed, epoch
    and position alone, so that the order is the same for any number of processes and workers, and after a resume.

    Args:
        corpus: what to draw from; utterances that are files of their own count as shards.
        seed: seed of all random order.
        shuffle_buffer: utterances; 1 leaves the order of the bytes.
    """

    def __init__(self, corpus: Corpus, *, seed: int = 0, shuffle_buffer: int = 4096) -> None:
        if shuffle_buffer < 1:
            raise InputError(f"shuffle_buffer must be 1 or more (found {shuffle_buffer})")
        self._shards, offsets = corpus.places_on_disk()
        self._by_place = np.lexsort((offsets, self._shards))
        self._num_shards = int(self._shards.max()) + 1
        self._seed = seed
        self.shuffle_buffer = shuffle_buffer

    def __len__(self) -> int:
        return len(self._shards)

    def epoch(self, epoch: int) -> list[Draw]:
        """Return all draws of one epoch in order."""
        turn = np.random.default_rng((self._seed, epoch, _SHARDS)).permutation(self._num_shards)
        in_turn = self._by_place[np.argsort(turn[self._shards[self._by_place]], kind="stable")]
        put_off = np.random.default_rng((self._seed, epoch, _WINDOW)).random(len(in_turn)) * (self.shuffle_buffer - 1)
        order = in_turn[np.argsort(np.arange(len(in_turn)) + put_off, kind="stable")]
        return [Draw(utterance, epoch, position) for position, utterance in enumerate(order.tolist())]


# Which utterances of one speaker are together in a batch: different ones, of different sessions where there are enough.


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
        places = np.searchsorted(ends, random.random() + np.arange(count), side="right")
        if places[-1] < len(order) and len(np.unique(places)) == count:  # else a mark fell into the rounding of an end
            return np.asarray(order[places])


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


class SpeakerBalancedSampler:
    """Every speaker equally often in each epoch.

    An epoch is ``draws_per_speaker`` rounds; a round visits every speaker once in random order, so that a batch holds as many
    different speakers as it can. A speaker's utterances are taken in random order without repetition; the count continues from
    epoch to epoch, so that in the long run every utterance is used equally often among those of its speaker.

    With ``crops_per_speaker`` above 1 a round draws that many times from each speaker in turn, so that contrastive losses find
    positives: see :func:`mrl.data.samplers.draw_groups` for which utterances make up such a group.

    Args:
        corpus: what to draw from.
        seed: seed of all random order.
        draws_per_speaker: per epoch, a multiple of ``crops_per_speaker``; by default about as many as makes the epoch as long as
            the corpus.
        crops_per_speaker: consecutive draws of one speaker.
        session_aware: let these be of different sessions where the speaker has several.
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        seed: int = 0,
        draws_per_speaker: int | None = None,
        crops_per_speaker: int = 1,
        session_aware: bool = True,
    ) -> None:
        if draws_per_speaker is not None and draws_per_speaker < 1:
            raise InputError(f"draws_per_speaker must be 1 or more (found {draws_per_speaker})")
        if crops_per_speaker < 1 or (draws_per_speaker or 0) % crops_per_speaker:
            raise InputError(
                f"crops_per_speaker must be 1 or more and divide draws_per_speaker (found {crops_per_speaker} "
                f"and {draws_per_speaker})"
            )
        self._members = corpus.indices_by_speaker()
        self._seed = seed
        groups = max(1, round(len(corpus) / len(corpus.speakers) / crops_per_speaker))
        self.draws_per_speaker = draws_per_speaker or groups * crops_per_speaker
        self.crops_per_speaker = crops_per_speaker
        self._sessions = (
            [members_by_session(corpus, members) if session_aware else [members] for members in self._members]
            if crops_per_speaker > 1
            else []
        )

    def __len__(self) -> int:
        return self.draws_per_speaker * len(self._members)

    def epoch(self, epoch: int) -> list[Draw]:
        """Return all draws of one epoch in order."""
        draws: list[Draw] = []
        chosen = [self._groups(speaker, epoch) for speaker in range(len(self._members))]
        for number in range(self.draws_per_speaker // self.crops_per_speaker):
            order = np.random.default_rng((self._seed, epoch, number, _ORDER)).permutation(len(self._members))
            for speaker in order:
                for utterance in chosen[speaker][number]:
                    draws.append(Draw(utterance, epoch, len(draws)))
        return draws

    def _groups(self, speaker: int, epoch: int) -> list[list[int]]:
        if self.crops_per_speaker == 1:
            return [[utterance] for utterance in self._utterances(speaker, epoch)]
        random = np.random.default_rng((self._seed, speaker, epoch, _GROUPS))
        count = self.draws_per_speaker // self.crops_per_speaker
        return draw_groups(self._sessions[speaker], self.crops_per_speaker, count, random)

    def _utterances(self, speaker: int, epoch: int) -> list[int]:
        members = self._members[speaker]
        first = epoch * self.draws_per_speaker
        chosen: list[int] = []
        cycle = -1
        order: Sequence[int] = ()
        for count in range(first, first + self.draws_per_speaker):
            if count // len(members) != cycle:
                cycle = count // len(members)
                order = np.random.default_rng((self._seed, speaker, cycle, _CYCLE)).permutation(len(members)).tolist()
            chosen.append(members[order[count % len(members)]])
        return chosen


class UtteranceSampler:
    """Every utterance once in each epoch, in random order."""

    def __init__(self, corpus: Corpus, *, seed: int = 0) -> None:
        self._count = len(corpus)
        self._seed = seed

    def __len__(self) -> int:
        return self._count

    def epoch(self, epoch: int) -> list[Draw]:
        """Return all draws of one epoch in order."""
        order = np.random.default_rng((self._seed, epoch, _ORDER)).permutation(self._count).tolist()
        return [Draw(utterance, epoch, position) for position, utterance in enumerate(order)]


class CorpusSampler:
    """Every corpus by its share of each epoch, and of any stretch of one, so that batches mix them evenly.

    An epoch is about as long as the whole collection (each corpus with a share is drawn once at least). A corpus's utterances are
    taken in random order without repetition; the count continues from epoch to epoch, so that in the long run each is used
    equally often within its corpus. Order and choice depend on seed and epoch only.

    Args:
        corpus: what to draw from; utterances whose corpus is not known are one corpus of their own, named ``""``.
        shares: how often each corpus is drawn, relative to the others; None: all equally. Corpora that are not named count 1.
        seed: of all random order.

    Raises:
        InputError: a share is negative or not finite, all are zero, or one names a corpus that is not there.
    """

    def __init__(self, corpus: Corpus, shares: Mapping[str, float] | None = None, *, seed: int = 0) -> None:
        members: dict[str, list[int]] = {}
        for index, utterance in enumerate(corpus.utterances):
            members.setdefault(utterance.corpus or "", []).append(index)
        names = sorted(members)
        given = dict(shares or {})
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise InputError(f"corpus shares name {', '.join(unknown)}, which the data does not have; it has {', '.join(names)}")
        weights = np.array([float(given.get(name, 1.0)) for name in names])
        if not np.isfinite(weights).all() or weights.min() < 0 or not weights.sum() > 0:
            raise InputError(f"corpus shares are {given}; expected numbers of which none is negative and one above 0")
        self._members = [np.array(members[name]) for name in names]
        parts = weights / weights.sum() * len(corpus)
        self._counts = [max(1, round(part)) if part else 0 for part in parts.tolist()]
        self._seed = seed

    def __len__(self) -> int:
        return sum(self._counts)

    def epoch(self, epoch: int) -> list[Draw]:
        """Return all draws of one epoch in order."""
        chosen = [self._chosen(number, epoch) for number in range(len(self._members))]
        # A draw's place is the middle of its part of the epoch, moved at random within that part: corpora stay evenly mixed.
        places = np.concatenate([self._places(number, epoch, len(members)) for number, members in enumerate(chosen)])
        order = np.argsort(places, kind="stable")
        return [Draw(utterance, epoch, position) for position, utterance in enumerate(np.concatenate(chosen)[order].tolist())]

    def _places(self, number: int, epoch: int, count: int) -> npt.NDArray[np.float64]:
        return (np.arange(count) + np.random.default_rng((self._seed, epoch, number, _MIX)).random(count)) / max(1, count)

    def _chosen(self, number: int, epoch: int) -> npt.NDArray[np.int64]:
        """The utterances of a corpus for one epoch; over all epochs they run through it again and again."""
        members, count = self._members[number], self._counts[number]
        if not count:
            return np.empty(0, dtype=np.int64)
        first = epoch * count
        cycles = range(first // len(members), math.ceil((first + count) / len(members)))
        orders = [np.random.default_rng((self._seed, number, cycle, _CYCLE)).permutation(members) for cycle in cycles]
        start = first - cycles.start * len(members)
        return np.concatenate(orders)[start : start + count].astype(np.int64)


Sampler = SpeakerBalancedSampler | UtteranceSampler | ShardSampler | CorpusSampler


_ORDER, _CYCLE, _GROUPS, _MIX = 1, 2, 5, 7  # keep the streams of random numbers apart


def split_updates(
    draws: Sequence[Draw],
    *,
    batch_size: int,
    accumulation_steps: int = 1,
    rank: int = 0,
    world_size: int = 1,
    start: int = 0,
    group_size: int = 1,
) -> list[tuple[int, list[list[Draw]]]]:
    """Cut an epoch's draws into optimizer updates, and this process's part of each into batches.

    An update takes ``batch_size * accumulation_steps * world_size`` draws. If less than half of that would be left for the last
    one, the last two share what is left evenly, so that no update is tiny (:func:`update_size`). Within an update the processes
    take every ``world_size``-th group of draws, so that together they take each draw exactly once, however many they are;
    each process cuts its part into as few batches as possible, whose sizes differ by one group at most. So no batch has less
    than half of ``batch_size`` unless the whole epoch is smaller than one update.

    Args:
        draws: the epoch in global order.
        start: how many draws of it are already done (resume).
        group_size: this many consecutive draws stay together in one batch (the crops of one speaker); divides ``batch_size``.

    Returns:
        For each update the number of draws that all processes take together, and this process's batches (none, if
        fewer groups than processes are left).

    Raises:
        InputError: sizes that do not fit each other.
    """
    if not (0 <= rank < world_size and batch_size >= 1 and accumulation_steps >= 1 and 0 <= start <= len(draws)):
        raise InputError(
            f"cannot split {len(draws)} draws from {start} into batches of {batch_size} x {accumulation_steps} "
            f"for rank {rank} of {world_size}"
        )
    if group_size < 1 or any(number % group_size for number in (batch_size, start, len(draws))):
        raise InputError(
            f"groups of {group_size} draws must divide the batch size, the draws and those done "
            f"(found {batch_size}, {len(draws)} and {start})"
        )
    full = batch_size * accumulation_steps * world_size
    updates = []
    while start < len(draws):
        size = update_size(len(draws) - start, full, group_size)
        taken = draws[start : start + size]
        groups = [taken[at : at + group_size] for at in range(rank * group_size, size, world_size * group_size)]
        updates.append((size, _even_batches(groups, batch_size // group_size)))
        start += size
    return updates


def update_size(left: int, full: int, group_size: int = 1) -> int:
    """Return how many of the ``left`` draws of an epoch the next update takes, ``full`` being its ordinary size.

    It depends on nothing but what is left, so a resumed epoch is cut like an undisturbed one.
    """
    if left <= full:
        return left
    if 2 * (left - full) < full:
        return -(-left // (2 * group_size)) * group_size
    return full


def updates_left(left: int, full: int) -> int:
    """Return how many updates :func:`update_size` makes of ``left`` draws."""
    return -(-left // full)


def smallest_batch(
    draws: int, *, batch_size: int, accumulation_steps: int = 1, world_size: int = 1, start: int = 0, group_size: int = 1
) -> int:
    """Return the size of the smallest batch that :func:`split_updates` gives any process, of what is left of an epoch."""
    full = batch_size * accumulation_steps * world_size
    sizes = []
    while start < draws:
        size = update_size(draws - start, full, group_size)
        groups = size // group_size
        for share in {-(-groups // world_size), groups // world_size} - {0}:
            sizes.append(share // -(-share * group_size // batch_size) * group_size)
        start += size
    return min(sizes, default=batch_size)


def _even_batches(groups: Sequence[Sequence[Draw]], most: int) -> list[list[Draw]]:
    """Put groups into as few batches of at most ``most`` groups as possible, of sizes that differ by one group at most."""
    count = -(-len(groups) // most)
    borders = [(number * len(groups)) // count for number in range(count + 1)] if count else []
    return [[draw for group in groups[first:end] for draw in group] for first, end in itertools.pairwise(borders)]

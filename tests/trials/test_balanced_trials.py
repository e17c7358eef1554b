"""Balanced lists: how many trials of which speakers, and of which genders."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.errors import DataError, InputError
from mrl.trials import TrialList
from mrl.trials.making import NumberedPairs, equal_shares, make_balanced_trials, unrank_pairs

Pair = tuple[bool, str, str]


def recordings(*counts: int) -> dict[str, list[str]]:
    return {f"s{speaker}": [f"s{speaker}/u{number}.wav" for number in range(count)] for speaker, count in enumerate(counts)}


def pairs_of(trials: TrialList) -> list[Pair]:
    names = trials.utterances
    return [
        (bool(label), names[first], names[second])
        for label, first, second in zip(trials.labels, trials.enrol, trials.test, strict=True)
    ]


def speaker(name: str) -> str:
    return name.split("/")[0]


@given(
    counts=st.lists(st.integers(1, 7), min_size=2, max_size=9).filter(lambda counts: max(counts) > 1),
    most=st.tuples(st.integers(1, 40), st.integers(1, 60)),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_numbers_and_balance(counts: list[int], most: tuple[int, int], seed: int) -> None:
    pairs = pairs_of(make_balanced_trials(recordings(*counts), max_targets=most[0], max_nontargets=most[1], seed=seed))
    assert len({frozenset(pair[1:]) for pair in pairs}) == len(pairs)
    assert all(label == (speaker(first) == speaker(second)) and first != second for label, first, second in pairs)
    own = {f"s{number}": count * (count - 1) // 2 for number, count in enumerate(counts)}
    across = {(f"s{a}", f"s{b}"): counts[a] * counts[b] for a, b in combinations(range(len(counts)), 2)}
    targets = Counter(speaker(first) for label, first, _ in pairs if label)
    nontargets = Counter(tuple(sorted((speaker(first), speaker(second)))) for label, first, second in pairs if not label)
    for taken, there, limit in ((targets, own, most[0]), (nontargets, across, most[1])):
        assert taken.total() == min(limit, sum(there.values()))
        # No group that still had pairs to give got two fewer than another.
        most_taken = max(taken.values())
        assert all(taken[group] >= min(capacity, most_taken - 1) for group, capacity in there.items())


@given(
    women=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    men=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    share=st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]),
    most=st.integers(1, 60),
)
@settings(max_examples=60, deadline=None)
def test_the_share_of_same_gender_pairs(women: list[int], men: list[int], share: float, most: int) -> None:
    voices = recordings(*women, *men, 2)
    genders = {name: "f" if number < len(women) else "m" for number, name in enumerate(voices)}
    inside = sum(len(voices[a]) * len(voices[b]) for a, b in combinations(voices, 2) if genders[a] == genders[b])
    across = sum(len(voices[a]) * len(voices[b]) for a, b in combinations(voices, 2) if genders[a] != genders[b])
    limit = min([most, *(int(there / part) for there, part in ((inside, share), (across, 1 - share)) if part)])
    make = {"max_nontargets": most, "genders": genders, "same_gender_share": share}
    if limit == 0:
        with pytest.raises(DataError, match="no different-speaker trials"):
            make_balanced_trials(voices, **make)
        return
    kinds = [
        genders[speaker(a)] == genders[speaker(b)] for label, a, b in pairs_of(make_balanced_trials(voices, **make)) if not label
    ]
    assert len(kinds) == limit
    assert abs(sum(kinds) - share * limit) <= 0.5


def test_targets_across_sessions_only() -> None:
    voices = recordings(4, 3, 2)
    sessions = {name: "even" if name[-5] in "02" else "odd" for names in voices.values() for name in names} | {
        "s2/u1.wav": "even"
    }
    trials = make_balanced_trials(voices, sessions=sessions)
    targets = [(first, second) for label, first, second in pairs_of(trials) if label]
    assert len(targets) == 4 + 2 and all(sessions[first] != sessions[second] for first, second in targets)
    assert trials.num_nontarget == 4 * 3 + 4 * 2 + 3 * 2
    with pytest.raises(DataError, match="no speaker has recordings of two sessions"):
        make_balanced_trials(voices, sessions=dict.fromkeys(sessions, "one"))
    with pytest.raises(DataError, match="3 recordings of one speaker have no session"):
        make_balanced_trials(voices, sessions=dict.fromkeys(voices["s0"], "a"))


def test_seeds() -> None:
    voices = recordings(*[5] * 20)
    lists = [pairs_of(make_balanced_trials(voices, max_targets=30, max_nontargets=50, seed=seed)) for seed in (0, 0, 1)]
    assert lists[0] == lists[1] != lists[2]


def test_pairs_are_numbered_without_gaps() -> None:
    low, high = unrank_pairs(np.arange(45))
    assert sorted(zip(low.tolist(), high.tolist(), strict=True)) == list(combinations(range(10), 2))
    large = np.array([0, 10**12, 2**52, 2**53 + 1])
    low, high = unrank_pairs(large)
    assert (high * (high - 1) // 2 + low == large).all() and (low < high).all() and (low >= 0).all()
    groups = [np.array([0, 3, 4]), np.array([1]), np.array([2, 5])]
    for same in (True, False):
        pool = NumberedPairs.of(groups, same=same)
        one, two = pool.members(np.arange(pool.count))
        found = {frozenset(pair) for pair in zip(one.tolist(), two.tolist(), strict=True)}
        of_group = {member: number for number, group in enumerate(groups) for member in group.tolist()}
        expected = {frozenset(pair) for pair in combinations(range(6), 2) if (of_group[pair[0]] == of_group[pair[1]]) == same}
        assert found == expected and pool.count == len(expected)


def test_equal_shares_by_hand() -> None:
    shares = equal_shares(np.array([1, 100, 3, 0]), 10, np.random.default_rng(0))
    assert shares.tolist() == [1, 6, 3, 0]
    assert equal_shares(np.array([2, 2]), 9, np.random.default_rng(0)).tolist() == [2, 2]


def test_refusals() -> None:
    with pytest.raises(DataError, match="two speakers"):
        make_balanced_trials(recordings(4))
    with pytest.raises(DataError, match="two recordings"):
        make_balanced_trials(recordings(1, 1))
    with pytest.raises(DataError, match=r"1 of 2 speakers have no gender, the first is 's1'"):
        make_balanced_trials(recordings(2, 2), genders={"s0": "f", "s1": ""}, same_gender_share=0.5)
    for bad in ({"max_targets": 0}, {"same_gender_share": 0.5}, {"same_gender_share": 1.5, "genders": {}}):
        with pytest.raises(InputError):
            make_balanced_trials(recordings(2, 2), **bad)

"""Made trial lists: complete where they can be, seeded where they cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.errors import DataError
from mrl.trials import make_trials, read_trials, write_trials


def recordings(*counts: int) -> dict[str, list[str]]:
    return {f"s{speaker}": [f"s{speaker}/u{number}.wav" for number in range(count)] for speaker, count in enumerate(counts)}


def test_all_pairs_of_a_small_set() -> None:
    trials = make_trials(recordings(3, 2, 1))
    assert trials.num_target == 3 + 1
    assert trials.num_nontarget == 3 * 2 + 3 * 1 + 2 * 1
    for label, first, second in zip(trials.labels, trials.enrol, trials.test, strict=True):
        one, two = trials.utterances[first], trials.utterances[second]
        assert one != two
        assert bool(label) == (one.split("/")[0] == two.split("/")[0])


@given(
    counts=st.lists(st.integers(1, 6), min_size=2, max_size=8).filter(lambda counts: max(counts) > 1),
    most=st.integers(1, 12),
    seed=st.integers(0, 5),
)
@settings(max_examples=40, deadline=None)
def test_limits_hold_and_no_pair_comes_twice(counts: list[int], most: int, seed: int) -> None:
    trials = make_trials(recordings(*counts), max_targets=most, max_nontargets=most, seed=seed)
    pairs = {frozenset((int(a), int(b))) for a, b in zip(trials.enrol, trials.test, strict=True)}
    assert len(pairs) == len(trials)
    total = sum(counts)
    same = sum(count * (count - 1) // 2 for count in counts)
    assert trials.num_target == min(most, same)
    assert trials.num_nontarget == min(most, total * (total - 1) // 2 - same)


def test_one_voice_that_outweighs_all_others() -> None:
    trials = make_trials(recordings(200, 1), max_targets=10, max_nontargets=1000)
    assert trials.num_nontarget == 200


def test_same_seed_same_list_other_seed_other_list() -> None:
    voices = recordings(*[5] * 20)
    options = {"max_targets": 20, "max_nontargets": 30}
    lists = [make_trials(voices, seed=seed, **options) for seed in (0, 0, 1)]
    as_sets = [
        {(trials.utterances[a], trials.utterances[b]) for a, b in zip(trials.enrol, trials.test, strict=True)} for trials in lists
    ]
    assert as_sets[0] == as_sets[1] != as_sets[2]


def test_written_lists_are_read_back(tmp_path: Path) -> None:
    trials = make_trials(recordings(3, 3))
    write_trials(trials, tmp_path / "list.txt")
    again = read_trials(tmp_path / "list.txt")
    assert again.utterances == trials.utterances
    assert again.labels.tolist() == trials.labels.tolist()
    assert again.test.tolist() == trials.test.tolist()


def test_what_cannot_be_paired_or_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two speakers"):
        make_trials(recordings(4))
    with pytest.raises(DataError, match="two recordings"):
        make_trials(recordings(1, 1, 1))
    spaced = make_trials({"a": ["a/one file.wav", "a/two.wav"], "b": ["b/one.wav"]})
    with pytest.raises(DataError, match="white space"):
        write_trials(spaced, tmp_path / "list.txt")
    assert not list(tmp_path.iterdir())

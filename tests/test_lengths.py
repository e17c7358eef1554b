"""Groups and shares by length."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.lengths import group_by_length


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), max_size=40),
    most=st.integers(1, 200),
    most_items=st.one_of(st.none(), st.integers(1, 5)),
    equal=st.booleans(),
)
def test_every_item_once_longest_first_and_within_bounds(
    lengths: list[int], most: int, most_items: int | None, equal: bool
) -> None:
    groups = group_by_length(lengths, most, most_items=most_items, equal=equal)
    flat = [item for group in groups for item in group]
    assert sorted(flat) == list(range(len(lengths)))
    assert flat == sorted(flat, key=lambda item: (-lengths[item], item))
    for number, group in enumerate(groups):
        longest = lengths[group[0]]
        assert len(group) == 1 or longest * len(group) <= most
        assert most_items is None or len(group) <= most_items
        assert not equal or {lengths[item] for item in group} == {longest}
        if number + 1 < len(groups):  # a group ends only where the next item does not fit any more
            following = lengths[groups[number + 1][0]]
            full = longest * (len(group) + 1) > most or len(group) == most_items
            assert full or (equal and following != longest)


@pytest.mark.parametrize(
    ("lengths", "most", "expected"),
    [
        ([5, 5, 5], 100, [[0, 1, 2]]),
        ([5, 5, 5], 10, [[0, 1], [2]]),
        ([5, 9, 1], 18, [[1, 0], [2]]),
        ([5, 9, 1], 0, [[1], [0], [2]]),
        ([7], 3, [[0]]),
        ([3.0, 1.0, 9.0, 1.5, 2.9], 6.0, [[2], [0, 4], [3, 1]]),
        ([], 6.0, []),
    ],
)
def test_groups(lengths: list[float], most: float, expected: list[list[int]]) -> None:
    assert group_by_length(lengths, most) == expected


def test_groups_of_one_length() -> None:
    assert group_by_length([5, 3, 5, 5, 3], 10, equal=True) == [[0, 2], [3], [1, 4]]
    assert group_by_length([50, 50], 10, equal=True) == [[0], [1]]
    assert group_by_length([2, 2, 2], 100, most_items=2) == [[0, 1], [2]]

"""Groups of one speaker's utterances: exact counts, different sessions, fair use."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.data import Corpus, SpeakerBalancedSampler, Utterance, split_updates
from mrl.data.samplers import draw_groups
from mrl.errors import InputError

session_sizes = st.lists(st.integers(1, 6), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(sizes=session_sizes, size=st.integers(1, 7), count=st.integers(1, 6), seed=st.integers(0, 9))
def test_sessions_differ_as_far_as_there_are_enough(sizes: list[int], size: int, count: int, seed: int) -> None:
    sessions = [[100 * session + number for number in range(length)] for session, length in enumerate(sizes)]
    groups = draw_groups(sessions, size, count, np.random.default_rng(seed))
    assert [len(group) for group in groups] == [size] * count
    total = sum(sizes)
    for group in groups:
        used = Counter(utterance // 100 for utterance in group)
        if len(sizes) >= size:
            assert set(used.values()) == {1}
        if total >= size:
            assert len(set(group)) == size  # no utterance twice
        else:
            assert max(Counter(group).values()) - min(Counter(group).get(u, 0) for s in sessions for u in s) <= 1
        for session, length in enumerate(sizes):  # a session takes another one only after all that could, took one
            if used[session] > 1 and total >= size:
                assert all(used[other] >= min(used[session] - 1, sizes[other]) for other in range(len(sizes))), (used, length)
    used_utterances = Counter(utterance for group in groups for utterance in group)
    for session in sessions:  # the utterances of a session take turns
        times = [used_utterances[utterance] for utterance in session]
        assert max(times) - min(times) <= 1


def test_larger_sessions_are_chosen_more_often() -> None:
    sessions = [list(range(12)), list(range(100, 104)), list(range(200, 204)), list(range(300, 304))]
    groups = draw_groups(sessions, 2, 6000, np.random.default_rng(0))
    share = Counter(utterance // 100 for group in groups for utterance in group)
    # of 2 places each group gives the first (12 of 24 utterances) exactly 1, the others a third each
    assert share[0] == 6000
    assert all(abs(share[session] - 2000) < 150 for session in (1, 2, 3))


def test_pairs_are_not_always_the_same() -> None:
    sessions = [[0, 1, 2], [10, 11, 12], [20, 21, 22]]
    groups = draw_groups(sessions, 2, 300, np.random.default_rng(1))
    assert len({frozenset(group) for group in groups}) > 20  # of 27
    assert len({group[0] // 10 for group in groups}) == 3


def _corpus(speakers: list[list[int]]) -> Corpus:
    return Corpus.of(
        Utterance(Path(f"{speaker}/{session}/{number}"), f"{speaker:03}", session=f"v{session}")
        for speaker, sessions in enumerate(speakers)
        for session, length in enumerate(sessions)
        for number in range(length)
    )


@settings(max_examples=60, deadline=None)
@given(
    speakers=st.lists(session_sizes, min_size=1, max_size=5),
    crops=st.integers(2, 4),
    rounds=st.none() | st.integers(1, 3),
    world=st.integers(1, 4),
    groups_per_batch=st.integers(1, 3),
    accumulation=st.integers(1, 3),
    epoch=st.integers(0, 3),
)
def test_groups_stay_whole_in_every_batch_of_every_process(
    speakers: list[list[int]], crops: int, rounds: int | None, world: int, groups_per_batch: int, accumulation: int, epoch: int
) -> None:
    corpus = _corpus(speakers)
    draws_per_speaker = None if rounds is None else rounds * crops
    sampler = SpeakerBalancedSampler(corpus, seed=1, draws_per_speaker=draws_per_speaker, crops_per_speaker=crops)
    draws = sampler.epoch(epoch)
    assert len(draws) == len(sampler) and [draw.position for draw in draws] == list(range(len(draws)))
    counts = Counter(corpus.labels[draw.utterance] for draw in draws)
    assert set(counts.values()) == {sampler.draws_per_speaker} and len(counts) == len(speakers)
    assert sampler.draws_per_speaker % crops == 0 and (draws_per_speaker in (None, sampler.draws_per_speaker))
    batch_size = groups_per_batch * crops
    per_rank = [
        split_updates(
            draws, batch_size=batch_size, accumulation_steps=accumulation, rank=rank, world_size=world, group_size=crops
        )
        for rank in range(world)
    ]
    assert len({len(updates) for updates in per_rank}) == 1
    taken = []
    for of_all in zip(*per_rank, strict=True):
        of_update = []
        for _, batches in of_all:
            assert len(batches) <= accumulation
            for batch in batches:
                assert 0 < len(batch) <= batch_size and len(batch) % crops == 0
                for first in range(0, len(batch), crops):
                    group = batch[first : first + crops]
                    positions = [draw.position for draw in group]
                    assert positions == list(range(positions[0], positions[0] + crops)) and positions[0] % crops == 0
                    speaker = {corpus.labels[draw.utterance] for draw in group}
                    assert len(speaker) == 1
                    if len(speakers[speaker.pop()]) >= crops:
                        assert len({corpus.utterances[draw.utterance].session for draw in group}) == crops
                of_update.extend(batch)
        assert {total for total, _ in of_all} == {len(of_update)}
        taken.extend(sorted(of_update, key=lambda draw: draw.position))
    assert taken == draws


def test_without_session_awareness_sessions_may_repeat() -> None:
    corpus = _corpus([[4, 4]] * 5)
    aware, blind = (
        SpeakerBalancedSampler(corpus, crops_per_speaker=2, draws_per_speaker=8, session_aware=kind).epoch(0)
        for kind in (True, False)
    )
    same = [
        sum(
            corpus.utterances[one.utterance].session == corpus.utterances[other.utterance].session
            for one, other in zip(draws[::2], draws[1::2], strict=True)
        )
        for draws in (aware, blind)
    ]
    assert same[0] == 0 < same[1] < 20  # 3 of 7 pairs at random
    for draws in (aware, blind):  # 8 draws of 8 utterances: each once
        assert set(Counter(draw.utterance for draw in draws).values()) == {1}


def test_unusable_numbers() -> None:
    corpus = _corpus([[2], [3]])
    with pytest.raises(InputError, match=r"crops_per_speaker must be 1 or more and divide draws_per_speaker \(found 2 and 3\)"):
        SpeakerBalancedSampler(corpus, draws_per_speaker=3, crops_per_speaker=2)
    with pytest.raises(InputError, match="crops_per_speaker must be"):
        SpeakerBalancedSampler(corpus, crops_per_speaker=0)
    draws = SpeakerBalancedSampler(corpus, crops_per_speaker=2).epoch(0)
    with pytest.raises(InputError, match="groups of 2 draws must divide the batch size"):
        split_updates(draws, batch_size=3, group_size=2)

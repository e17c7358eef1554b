"""Order of drawing: balance, coverage, and splitting over processes and resumes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.data import Corpus, SpeakerBalancedSampler, Utterance, UtteranceSampler, split_updates
from mrl.data.samplers import smallest_batch, updates_left
from mrl.errors import InputError

counts_of_speakers = st.lists(st.integers(1, 9), min_size=1, max_size=7)


def _corpus(counts: list[int]) -> Corpus:
    return Corpus.of(Utterance(Path(f"{speaker}/{i}"), f"{speaker:03}") for speaker, n in enumerate(counts) for i in range(n))


@settings(max_examples=40, deadline=None)
@given(counts=counts_of_speakers, seed=st.integers(0, 5), draws=st.none() | st.integers(1, 6), epoch=st.integers(0, 4))
def test_every_speaker_equally_often(counts: list[int], seed: int, draws: int | None, epoch: int) -> None:
    corpus = _corpus(counts)
    sampler = SpeakerBalancedSampler(corpus, seed=seed, draws_per_speaker=draws)
    drawn = sampler.epoch(epoch)
    assert len(drawn) == len(sampler)
    assert set(Counter(corpus.labels[one.utterance] for one in drawn).values()) == {sampler.draws_per_speaker}
    assert [one.position for one in drawn] == list(range(len(drawn)))
    speakers = len(counts)
    for first in range(0, len(drawn), speakers):  # each round has each speaker once
        assert len({corpus.labels[one.utterance] for one in drawn[first : first + speakers]}) == speakers
    assert drawn == SpeakerBalancedSampler(corpus, seed=seed, draws_per_speaker=draws).epoch(epoch)


@settings(max_examples=30, deadline=None)
@given(counts=counts_of_speakers, draws=st.integers(1, 6))
def test_utterances_of_a_speaker_are_used_equally_over_epochs(counts: list[int], draws: int) -> None:
    corpus = _corpus(counts)
    sampler = SpeakerBalancedSampler(corpus, draws_per_speaker=draws)
    used: Counter[int] = Counter()
    for epoch in range(7):
        used.update(one.utterance for one in sampler.epoch(epoch))
    for members in corpus.indices_by_speaker():
        times = [used[index] for index in members]
        assert max(times) - min(times) <= 1


def test_epochs_and_seeds_differ() -> None:
    corpus = _corpus([4] * 8)
    for kind in (SpeakerBalancedSampler, UtteranceSampler):
        orders = {tuple(one.utterance for one in kind(corpus, seed=seed).epoch(epoch)) for seed in (0, 1) for epoch in (0, 1)}
        assert len(orders) == 4


def test_every_utterance_once() -> None:
    sampler = UtteranceSampler(_corpus([3, 1, 5]), seed=3)
    assert sorted(one.utterance for one in sampler.epoch(2)) == list(range(9)) == list(range(len(sampler)))


@settings(max_examples=100, deadline=None)
@given(
    count=st.integers(1, 60),
    batch=st.integers(1, 7),
    accumulation=st.integers(1, 3),
    world=st.integers(1, 5),
    done=st.integers(0, 60),
)
def test_processes_share_without_overlap_or_loss(count: int, batch: int, accumulation: int, world: int, done: int) -> None:
    draws = UtteranceSampler(_corpus([count])).epoch(0)
    sizes = {"batch_size": batch, "accumulation_steps": accumulation, "world_size": world}
    position = start = sum(total for total, _ in split_updates(draws, **sizes)[:done])
    per_rank = [split_updates(draws, **sizes, rank=rank, start=start) for rank in range(world)]
    assert len({len(updates) for updates in per_rank}) == 1
    full = batch * accumulation * world
    assert len(per_rank[0]) == updates_left(count - start, full) == -(-(count - start) // full)
    lengths = []
    for of_all in zip(*per_rank, strict=True):
        taken = [one for _, batches in of_all for group in batches for one in group]
        (total,) = {total for total, _ in of_all}
        expected = draws[position : position + total]
        assert sorted(one.position for one in taken) == [one.position for one in expected]
        assert max(len(batches) for _, batches in of_all) <= accumulation
        assert total == full or position + total + full > count  # only the last two updates are smaller
        lengths += [len(group) for _, batches in of_all for group in batches]
        position += total
    assert position == count
    assert all(0 < length <= batch for length in lengths)
    assert smallest_batch(count, **sizes, start=start) == min(lengths, default=batch)
    if count >= full:  # no batch is tiny unless the whole epoch is
        assert min(lengths, default=batch) >= batch // 2


def test_the_last_two_updates_share_a_small_remainder() -> None:
    draws = UtteranceSampler(_corpus([17])).epoch(0)
    assert [[len(group) for group in batches] for _, batches in split_updates(draws, batch_size=8)] == [[8], [5], [4]]
    two = split_updates(draws, batch_size=4, accumulation_steps=2)
    assert [[len(group) for group in batches] for _, batches in two] == [[4, 4], [2, 3], [4]]
    four = split_updates(draws[:16] + draws[:4], batch_size=8)
    assert [total for total, _ in four] == [8, 8, 4]  # half a batch stands alone


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 50), batch=st.integers(1, 5), done=st.integers(0, 20))
def test_resume_continues_where_it_was(count: int, batch: int, done: int) -> None:
    draws = UtteranceSampler(_corpus([count])).epoch(1)
    whole = split_updates(draws, batch_size=batch)
    done = min(done, len(whole))
    position = sum(total for total, _ in whole[:done])
    assert split_updates(draws, batch_size=batch, start=position) == whole[done:]


def test_wrong_numbers() -> None:
    with pytest.raises(InputError, match="rank 2 of 2"):
        split_updates([], batch_size=1, rank=2, world_size=2)
    with pytest.raises(InputError, match="draws_per_speaker"):
        SpeakerBalancedSampler(_corpus([1]), draws_per_speaker=0)

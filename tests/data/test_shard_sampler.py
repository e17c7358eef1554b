"""The order that reads shard by shard: every utterance once, near its place, the same for any split and resume."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.audio import FileSlice
from mrl.data import Corpus, ShardSampler, Utterance, split_updates
from mrl.errors import InputError

shard_sizes = st.lists(st.integers(1, 12), min_size=1, max_size=6)


def _corpus(sizes: list[int], *, shuffled: bool = False) -> Corpus:
    utterances = [
        Utterance(
            Path(f"shard-{shard}.tar/{number}"),
            f"s{(shard + number) % 3}",
            seconds=1.0,
            slice=FileSlice(Path(f"shard-{shard}.tar"), 1000 * number, 900, str(number)),
        )
        for shard, size in enumerate(sizes)
        for number in range(size)
    ]
    return Corpus.of(utterances) if shuffled else Corpus.in_order(utterances)


@settings(max_examples=60, deadline=None)
@given(sizes=shard_sizes, buffer=st.integers(1, 20), seed=st.integers(0, 3), epoch=st.integers(0, 3), shuffled=st.booleans())
def test_every_utterance_once_and_near_its_place(sizes: list[int], buffer: int, seed: int, epoch: int, shuffled: bool) -> None:
    corpus = _corpus(sizes, shuffled=shuffled)
    draws = ShardSampler(corpus, seed=seed, shuffle_buffer=buffer).epoch(epoch)
    assert sorted(draw.utterance for draw in draws) == list(range(len(corpus)))
    assert [(draw.epoch, draw.position) for draw in draws] == [(epoch, position) for position in range(len(draws))]
    in_place = ShardSampler(corpus, seed=seed, shuffle_buffer=1).epoch(epoch)  # shards in their order of this epoch
    slices = [corpus.utterances[draw.utterance].slice for draw in in_place]
    files = [one.path for one in slices if one is not None]
    assert len(list(dict.fromkeys(files))) == sum(a != b for a, b in itertools.pairwise(files)) + 1  # one visit each
    assert all(a.offset < b.offset for a, b in itertools.pairwise(slices) if a and b and a.path == b.path)
    place = {draw.utterance: draw.position for draw in in_place}
    assert all(abs(place[draw.utterance] - draw.position) < buffer for draw in draws)


@settings(max_examples=80, deadline=None)
@given(
    sizes=shard_sizes,
    buffer=st.integers(1, 20),
    worlds=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    batch=st.integers(1, 5),
    accumulation=st.integers(1, 3),
    done=st.integers(0, 9),
)
def test_any_ranks_and_any_resume_draw_the_same_global_order(
    sizes: list[int], buffer: int, worlds: tuple[int, int], batch: int, accumulation: int, done: int
) -> None:
    """Some updates by so many processes, the rest, after a resume, by others: together the epoch, each draw once, in order."""
    corpus = _corpus(sizes)
    order = ShardSampler(corpus, shuffle_buffer=buffer).epoch(2)
    taken = []
    position = 0
    for world, limit in zip(worlds, (done, len(order)), strict=True):
        per_rank = [
            split_updates(
                ShardSampler(corpus, shuffle_buffer=buffer).epoch(2),
                batch_size=batch,
                accumulation_steps=accumulation,
                rank=rank,
                world_size=world,
                start=position,
            )
            for rank in range(world)
        ]
        for of_all in list(zip(*per_rank, strict=True))[:limit]:
            of_update = [draw for _, batches in of_all for one in batches for draw in one]
            assert len(of_update) == len(set(of_update)) == of_all[0][0]
            taken.extend(sorted(of_update, key=lambda draw: draw.position))
            position += of_all[0][0]
    assert taken == order


def test_epochs_seeds_and_buffers_differ() -> None:
    corpus = _corpus([30] * 4)
    orders = {
        tuple(draw.utterance for draw in ShardSampler(corpus, seed=seed, shuffle_buffer=buffer).epoch(epoch))
        for seed in (0, 1)
        for epoch in (0, 1)
        for buffer in (1, 50)
    }
    assert len(orders) == 8
    moved = [abs(draw.utterance - draw.position) for draw in ShardSampler(_corpus([2000]), shuffle_buffer=300).epoch(0)]
    assert 60 < np.mean(moved) < 140  # mixed over the whole buffer, not just a little


def test_speed_copies_keep_the_order_of_the_shards() -> None:
    corpus = _corpus([3, 4]).with_speed_copies([0.9, 1.1])
    offsets = [(str(one.file), one.slice.offset if one.slice else 0) for one in corpus.utterances]
    assert offsets == sorted(offsets) and len(set(offsets)) == 7 and len(corpus.speakers) == 9
    draws = ShardSampler(corpus, shuffle_buffer=1).epoch(0)
    assert sorted(draw.utterance for draw in draws) == list(range(21))


def test_a_buffer_of_nothing() -> None:
    with pytest.raises(InputError, match="shuffle_buffer must be 1 or more"):
        ShardSampler(_corpus([1]), shuffle_buffer=0)

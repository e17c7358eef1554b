"""The order for slow seeks: shard after shard, mixed within a window, the same for the same seed and epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mrl.data.crops import Draw
from mrl.data.utterances import Corpus
from mrl.errors import InputError

_SHARDS, _WINDOW = 3, 4  # keep the streams of random numbers apart


class ShardSampler:
    """Every utterance once in each epoch, shard after shard: network storage and spinning disks are read almost in order.

    The shards of an epoch come in random order, the utterances of each in the order of their bytes; then every utterance is put
    off by a random number of places below ``shuffle_buffer``. As with a shuffle buffer, utterances that are drawn together lie
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
        numbers: dict[Path, int] = {}
        for one in sorted({one.file for one in corpus.utterances}):
            numbers[one] = len(numbers)
        self._shards = np.array([numbers[one.file] for one in corpus.utterances])
        offsets = np.array([0 if one.slice is None else one.slice.offset for one in corpus.utterances])
        self._by_place = np.lexsort((offsets, self._shards))
        self._num_shards = len(numbers)
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

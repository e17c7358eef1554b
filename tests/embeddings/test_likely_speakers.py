"""Speakers found among unlabelled embeddings."""

from __future__ import annotations

from collections import Counter

import numpy as np

from mrl.embeddings import likely_speakers


def _voices(speakers: int, per_speaker: int, noise: float, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    means = np.repeat(random.standard_normal((speakers, 64)), per_speaker, axis=0)
    return (means + noise * random.standard_normal(means.shape)).astype(np.float32)


def test_clear_speakers_are_found_in_any_order_at_any_scale() -> None:
    order = np.random.default_rng(1).permutation(120)
    truth = np.repeat(np.arange(30), 4)[order]
    groups = likely_speakers(250.0 * _voices(30, 4, 0.3)[order])
    assert sorted(Counter(zip(groups, truth, strict=True)).values()) == [4] * 30
    assert groups.min() == 0 and groups.max() == 29


def test_strangers_stay_apart_and_linked_pairs_are_mostly_right() -> None:
    assert len(set(likely_speakers(_voices(300, 1, 0.0)))) >= 295
    truth = np.repeat(np.arange(150), 3)
    groups = likely_speakers(_voices(150, 3, 0.6))
    pairs = [(groups[i] == groups[j], truth[i] == truth[j]) for i in range(450) for j in range(i)]
    linked = [same for together, same in pairs if together]
    assert len(linked) > 150 and np.mean(linked) > 0.95


def test_two_embeddings_and_more_than_one_block() -> None:
    assert likely_speakers(np.eye(2, 8, dtype=np.float32)).tolist() == [0, 1]
    matrix = _voices(1100, 2, 0.2)
    assert len(set(likely_speakers(matrix))) < 1300

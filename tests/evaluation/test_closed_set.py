"""Closed-set identification."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.embeddings.compact import EMBEDDING_FORMATS, EmbeddingFormat, encode_embeddings, encoded_cosines
from mrl.errors import DataError
from mrl.evaluation.storage import ClosedSet, recall_at
from mrl.scoring import SpeakerResamples
from mrl.trials import TrialList
from tests.embeddings.fakes import all_pairs


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.integers(0, 5))
def test_one_utterance_of_each_speaker_is_enrolled_and_the_others_ask(counts: list[int], seed: int) -> None:
    owner = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng(1).shuffle(owner)
    if max(counts) == 1:
        with pytest.raises(DataError, match="second utterance"):
            ClosedSet.draw(owner, seed=seed)
        return
    drawn = ClosedSet.draw(owner, seed=seed)
    np.testing.assert_array_equal(owner[drawn.enrolled], np.arange(len(counts)))
    np.testing.assert_array_equal(owner[drawn.queries], drawn.speaker)
    assert sorted([*drawn.enrolled, *drawn.queries]) == list(range(len(owner)))


def test_every_utterance_is_drawn_equally_often() -> None:
    enrolled = [int(ClosedSet.draw([0, 0, 0, 0, 1], seed=seed).enrolled[0]) for seed in range(400)]
    assert min(np.bincount(enrolled, minlength=4)) > 70


@pytest.mark.parametrize("form", EMBEDDING_FORMATS)
def test_recall_is_that_of_sorting_every_query(form: EmbeddingFormat) -> None:
    random = np.random.default_rng(3)
    owner = np.repeat(np.arange(14), 5)
    matrix = np.repeat(random.standard_normal((14, 8)), 5, axis=0) + 1.2 * random.standard_normal((70, 8))
    encoded = encode_embeddings(matrix, form)
    drawn = ClosedSet.draw(owner, seed=2)
    found = recall_at(encoded, form, 8, drawn, (1, 3, 10, 14))
    hits = {rank: [] for rank in (1, 3, 10)}  # type: dict[int, list[float]]
    for query, speaker in zip(drawn.queries, drawn.speaker, strict=True):
        scores = encoded_cosines(encoded[[query]], encoded[drawn.enrolled], form, 8)[0]
        orders = [np.lexsort((random.random(14), -scores)).tolist().index(speaker) for _ in range(400)]
        for rank in hits:
            hits[rank].append(float(np.mean([place < rank for place in orders])))
    for rank, expected in hits.items():
        recall = found[rank]
        assert recall is not None and recall.interval is None
        assert recall.value == pytest.approx(np.mean(expected), abs=0.01 if form == "binary" else 1e-12)
    assert found[14] is None


def test_equal_scores_share_the_places() -> None:
    encoded = encode_embeddings(np.ones((8, 3)), "float32")
    drawn = ClosedSet.draw([0, 1, 2, 3] * 2)
    found = recall_at(encoded, "float32", 3, drawn, (1, 3))
    assert found[1] is not None and found[1].value == 0.25
    assert found[3] is not None and found[3].value == 0.75


def test_intervals_resample_who_asks() -> None:
    """One speaker is never recognised, nine always: recall is one minus that speaker's share of the queries."""
    trials = TrialList.from_pairs(all_pairs([f"s{s}/{u}" for s in range(10) for u in range(3)]))
    matrix = np.repeat(np.eye(10, 12), 3, axis=0)
    drawn = ClosedSet.draw(np.repeat(np.arange(10), 3))
    matrix[drawn.queries[drawn.speaker == 0]] = np.eye(12)[10] + 0.5 * np.eye(12)[1]
    resamples = SpeakerResamples.draw(trials, 500, seed=1)
    found = recall_at(encode_embeddings(matrix, "float32"), "float32", 12, drawn, (1,), resamples=resamples)[1]
    assert found is not None and found.interval is not None
    assert found.value == pytest.approx(0.9)
    expected = np.percentile(1 - resamples.multiplicities[:, 0] / 10, [2.5, 97.5])
    assert (found.interval.low, found.interval.high) == pytest.approx(tuple(expected))
    assert found.interval.low < 0.9 < found.interval.high

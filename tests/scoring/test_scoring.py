"""Cosines of all prefixes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.errors import DataError, InputError
from mrl.scoring import score_prefixes
from mrl.trials import TrialList


def _random_trials(num_utterances: int, num_trials: int, seed: int = 0) -> TrialList:
    random = np.random.default_rng(seed)
    index = random.integers(0, num_utterances, (2, num_trials), dtype=np.int32)
    return TrialList(tuple(map(str, range(num_utterances))), index[0], index[1], random.random(num_trials) < 0.5)


def _one_by_one(embeddings: np.ndarray, trials: TrialList, dim: int) -> np.ndarray:
    rows = embeddings[:, :dim].astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.array([rows[a] @ rows[b] for a, b in zip(trials.enrol, trials.test, strict=True)])


@settings(max_examples=25, deadline=None)
@given(
    num_utterances=st.integers(1, 30),
    num_trials=st.integers(0, 700),
    embed_dim=st.integers(1, 40),
    data=st.data(),
)
def test_equals_one_by_one_in_double_precision(num_utterances: int, num_trials: int, embed_dim: int, data: st.DataObject) -> None:
    dims = data.draw(st.lists(st.integers(1, embed_dim), min_size=1, max_size=5))
    embeddings = np.random.default_rng(embed_dim).standard_normal((num_utterances, embed_dim)).astype(np.float32)
    trials = _random_trials(num_utterances, num_trials)
    scores = score_prefixes(embeddings, trials, dims)
    assert list(scores) == sorted(set(dims))
    for dim, values in scores.items():
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, _one_by_one(embeddings, trials, dim), atol=2e-6)


def test_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from mrl.scoring import cosine as scoring

    monkeypatch.setattr(scoring, "_BLOCK_VALUES", 1)  # 256 trials per block, the least
    embeddings = np.random.default_rng(1).standard_normal((50, 8)).astype(np.float32)
    trials = _random_trials(50, 1000)
    np.testing.assert_allclose(score_prefixes(embeddings, trials, [3])[3], _one_by_one(embeddings, trials, 3), atol=2e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e18, 1e37])
def test_scale_does_not_matter(scale: float) -> None:
    embeddings = np.random.default_rng(2).standard_normal((20, 16)).astype(np.float32)
    trials = _random_trials(20, 100)
    expected = score_prefixes(embeddings, trials, [4, 16])
    for dim, values in score_prefixes(embeddings * np.float32(scale), trials, [4, 16]).items():
        np.testing.assert_allclose(values, expected[dim], atol=1e-6)


def test_an_utterance_against_itself_scores_one_and_never_more() -> None:
    embeddings = np.random.default_rng(3).standard_normal((400, 192)).astype(np.float32)
    same = np.arange(400, dtype=np.int32)
    trials = TrialList(tuple(map(str, same)), same, same, np.ones(400, np.bool_))
    for values in score_prefixes(embeddings, trials, [16, 192]).values():
        assert values.max() <= 1.0
        np.testing.assert_allclose(values, 1.0, atol=1e-6)


def test_prefixes_without_length_and_values_that_are_not_finite_are_errors() -> None:
    trials = TrialList.from_pairs([(True, "a", "b"), (False, "a", "c")])
    embeddings = np.ones((3, 4), dtype=np.float32)
    embeddings[1, :2] = 0
    with pytest.raises(DataError, match=r"first 2 dimensions of 1 of 3 embeddings are all zero.*'b'"):
        score_prefixes(embeddings, trials, [2, 4])
    assert score_prefixes(embeddings, trials, [4])[4][0] == pytest.approx(2**-0.5, abs=1e-6)
    for bad in (np.nan, np.inf):
        embeddings[2, 3] = bad
        with pytest.raises(DataError, match=r"1 of 3 embeddings hold NaN or infinity.*'c'"):
            score_prefixes(embeddings, trials, [4])
    with pytest.raises(DataError, match="all zero"):
        score_prefixes(np.zeros((3, 4)), trials, [4])


@pytest.mark.parametrize("dims", [[], [0], [5], [2, 9], [-1]])
def test_dims_out_of_range(dims: list[int]) -> None:
    trials = TrialList.from_pairs([(True, "a", "b")])
    with pytest.raises(InputError, match=r"1\.\.4"):
        score_prefixes(np.ones((2, 4)), trials, dims)


@pytest.mark.parametrize("shape", [(3, 4), (2,), (2, 2, 2)])
def test_rows_must_belong_to_the_utterances(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="each of the 2 utterances"):
        score_prefixes(np.ones(shape), TrialList.from_pairs([(True, "a", "b")]), [1])

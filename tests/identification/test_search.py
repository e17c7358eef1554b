"""Search: every way finds what comparing with all finds, or says how often it does."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.embeddings.compact import EMBEDDING_FORMATS, EmbeddingFormat, encode_embeddings, encoded_cosines
from mrl.errors import InputError, MissingDependencyError
from mrl.identification import ExactSearch, FunnelSearch, UsearchSearch, voice_matrix, voices_in_memory
from mrl.identification import search as funnel
from mrl.identification.search import RunningHighest, highest
from tests.identification.makers import same_speakers, speakers


@given(n=st.integers(1, 3000), count=st.integers(1, 40), levels=st.integers(1, 1000), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_highest_is_a_stable_sort(n: int, count: int, levels: int, seed: int) -> None:
    scores = np.random.default_rng(seed).integers(0, levels, n).astype(np.float32)
    expected = np.sort(np.argsort(-scores, kind="stable")[:count])
    assert np.array_equal(highest(scores, count), expected)
    running = RunningHighest(count)
    for first in range(0, n, 700):
        running.add(scores[first : first + 700], first)
    assert np.array_equal(np.sort(running.rows), expected)


@pytest.mark.parametrize("form", EMBEDDING_FORMATS)
def test_exact_search_is_a_sort_of_all_cosines(form: EmbeddingFormat) -> None:
    means = speakers(300, 130)
    queries = same_speakers(means[:7])
    found = ExactSearch(voices_in_memory(means, form)).search(queries * 3.0, 10)
    encoded = encode_embeddings(means, form)
    for query, one in zip(queries, found, strict=True):
        if form == "binary":
            cosines = encoded_cosines(encode_embeddings(query[None], form), encoded, form, 130)[0]
        else:
            cosines = voices_in_memory(means, form).embeddings(slice(None)) @ query
        assert one.scores == pytest.approx(np.sort(cosines)[::-1][:10], abs=2e-6)
        assert cosines[one.numbers] == pytest.approx(one.scores, abs=2e-6)


@given(
    n=st.integers(1, 1500),
    count=st.integers(1, 12),
    form=st.sampled_from(["float32", "float16", "int8"]),
    shortlist=st.sampled_from([1, 20, 400]),
    by=st.sampled_from(["signs", 32, 64]),
    minimum=st.sampled_from([None, 0.3, 0.9]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_exact_funnel_equals_exact_search(
    n: int, count: int, form: EmbeddingFormat, shortlist: int, by: int | str, minimum: float | None, seed: int
) -> None:
    means = speakers(n, 160, seed)
    queries = np.concatenate([same_speakers(means[:2], seed=seed + 1), speakers(1, 160, seed + 2)])
    voices = voices_in_memory(means, form)
    expected = ExactSearch(voices).search(queries, count, minimum=minimum)
    found = FunnelSearch(voices, shortlist=shortlist, by=by, exact=True).search(queries, count, minimum=minimum)  # type: ignore[arg-type]
    for one, two in zip(expected, found, strict=True):
        assert np.array_equal(one.numbers, two.numbers) and np.array_equal(one.scores, two.scores)


def test_exact_funnel_narrows_and_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to an exact answer: picking out candidates, and comparing all where they are too many."""
    means = speakers(4000, 160)
    voices = voices_in_memory(means)
    compared: list[int] = []

    class Counting(ExactSearch):
        def search(self, queries, count, *, minimum=None):  # type: ignore[no-untyped-def]
            compared.append(len(queries))
            return super().search(queries, count, minimum=minimum)

    monkeypatch.setattr(funnel, "ExactSearch", Counting)
    exact = FunnelSearch(voices, shortlist=20, exact=True)
    near = same_speakers(means[:3], noise=0.2)
    assert [one.numbers[0] for one in exact.search(near, 1)] == [0, 1, 2] and compared == []
    exact.search(speakers(2, 160, 5), 10)
    assert compared == [2]


@pytest.mark.parametrize(("by", "recall"), [("signs", 0.99), (32, 0.97), (64, 0.995)])
def test_approximate_funnel_finds_the_speaker(by: int | str, recall: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voice_matrix, "_BLOCK_VOICES", 3000)  # several blocks, the last one in part
    means = speakers(10_000)
    voices = voices_in_memory(means)
    queries = same_speakers(means[::50])
    truth = np.array([one.numbers[0] for one in ExactSearch(voices).search(queries, 1)])
    found = FunnelSearch(voices, shortlist=100, by=by).search(queries, 1)  # type: ignore[arg-type]
    assert np.mean(truth == np.arange(0, 10_000, 50)) > 0.99
    assert np.mean(np.array([one.numbers[0] for one in found]) == truth) >= recall
    assert all(len(one.numbers) == 1 for one in found)


def test_usearch_finds_the_speaker() -> None:
    pytest.importorskip("usearch")
    means = speakers(2000, 64)
    voices = voices_in_memory(means, "int8", np.arange(2000) * 7 + 3)
    queries = same_speakers(means[:50], noise=0.4)
    truth = ExactSearch(voices).search(queries, 3)
    found = UsearchSearch(voices, threads=1).search(queries, 3)
    assert np.mean([one.numbers[0] == two.numbers[0] for one, two in zip(truth, found, strict=True)]) >= 0.98
    assert found[0].scores[0] == truth[0].scores[0]
    with pytest.raises(InputError):
        UsearchSearch(voices, expansion_search=0)
    assert len(UsearchSearch(voices_in_memory(means[:5], "binary")).search(queries[:1], 3)[0].numbers) == 3


def test_absent_packages_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    from mrl.identification import QdrantSearch

    voices = voices_in_memory(speakers(3, 16))
    with pytest.raises(MissingDependencyError, match=r"redimnet-mrl\[index\]"):
        UsearchSearch(voices)
    with pytest.raises(MissingDependencyError, match=r"redimnet-mrl\[qdrant\]"):
        QdrantSearch(None, voices)


@pytest.mark.parametrize("search", [ExactSearch, FunnelSearch])
def test_unusable_queries(search: type) -> None:
    one = search(voices_in_memory(speakers(3, 160)))
    assert len(one.search(speakers(1, 160)[0], 10)[0].numbers) == 3
    for queries, count in (
        (np.ones((1, 159)), 1),
        (np.full((1, 160), np.nan), 1),
        (np.zeros((1, 160)), 1),
        (np.ones((1, 160)), 0),
    ):
        with pytest.raises(InputError):
            one.search(queries, count)
    with pytest.raises(InputError):
        FunnelSearch(voices_in_memory(speakers(3, 160)), shortlist=0)
    with pytest.raises(InputError):
        FunnelSearch(voices_in_memory(speakers(3, 160)), by="luck")  # type: ignore[arg-type]


def test_torch_is_not_needed() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import mrl.identification.recognise, mrl.identification.search, mrl.identification.exchange"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

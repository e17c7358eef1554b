"""Qdrant, in its local mode."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrl.errors import InputError
from mrl.identification import ExactSearch, QdrantSearch, VoiceStore, load_voices, voices_in_memory
from tests.identification.makers import MODEL, same_speakers, speakers


@pytest.fixture
def client() -> Iterator[Any]:
    package = pytest.importorskip("qdrant_client")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened = package.QdrantClient(":memory:")
        yield opened
        opened.close()


def test_multi_stage_query_and_synchronising(client: Any, tmp_path: Path) -> None:
    store = VoiceStore.open_or_create(tmp_path / "v.sqlite", embed_dim=96)
    means = speakers(60, 96)
    for number, row in enumerate(means):
        store.add(f"v{number}", row[None], [1.0], model_hash=MODEL)
    voices = load_voices(store)
    search = QdrantSearch(client, voices, prefix_dim=32, shortlist=40)
    assert search.synchronise() is True and search.synchronise() is False
    queries = same_speakers(means[:10], noise=0.4)
    for one, two in zip(ExactSearch(voices).search(queries, 1), search.search(queries, 1), strict=True):
        assert one.numbers.tolist() == two.numbers.tolist() and one.scores == pytest.approx(two.scores, abs=1e-5)
    assert len(search.search(queries[0], 100)[0].numbers) == 60
    assert [len(hit.numbers) for hit in search.search(queries[:1], 5, minimum=0.75)] == [1]
    number = int(search.search(means[4], 1)[0].numbers[0])
    store.remove(["v4"])
    fresh = QdrantSearch(client, load_voices(store), prefix_dim=32, shortlist=40)
    assert fresh.synchronise() is True
    assert number not in fresh.search(means[4], 100)[0].numbers
    assert len(client.get_collections().collections) == 1  # the deleted voice is nowhere


def test_the_shortlist_is_made_by_the_prefix(client: Any) -> None:
    """A voice that is alike as a whole but not in its prefix is missed by a shortlist of one."""
    whole = np.zeros((2, 8), dtype=np.float32)
    whole[0, 7], whole[1, [0, 6]] = 1.0, (0.2, 1.0)
    query = np.array([0.3, 0, 0, 0, 0, 0, 0, 1.0])
    for shortlist, expected in ((1, 1), (2, 0)):
        search = QdrantSearch(client, voices_in_memory(whole + 1e-3), prefix_dim=2, shortlist=shortlist)
        search.synchronise()
        assert search.search(query, 1)[0].numbers.tolist() == [expected]


def test_unusable_arguments(client: Any) -> None:
    with pytest.raises(InputError, match="binary"):
        QdrantSearch(client, voices_in_memory(speakers(3, 16), "binary"))
    with pytest.raises(InputError, match="prefix_dim"):
        QdrantSearch(client, voices_in_memory(speakers(3, 16)), prefix_dim=17)

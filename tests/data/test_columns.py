"""Utterances as columns: they come back as they were, take little memory, and are shared by worker processes."""

from __future__ import annotations

import dataclasses
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl.audio import FileSlice
from mrl.data import Corpus, CropDataset, Draw, Utterance
from mrl.data.columns import UtteranceColumns
from mrl.data.crops import BatchLoader
from mrl.errors import DataError

characters = st.characters(codec="utf-8", exclude_characters="/\0")
names = st.text(characters, min_size=1, max_size=6).filter(lambda name: name not in (".", ".."))
places = st.tuples(st.integers(0, 2**40), st.integers(0, 2**33))
seconds = st.none() | st.floats(0.1, 1e4)
utterances = st.builds(
    Utterance,
    path=st.builds(lambda *parts: Path(*parts), st.sampled_from(["/", "a", "/b/c"]), names, names),
    speaker=names,
    start=st.floats(0, 1e4),
    seconds=seconds,
    session=st.none() | names,
    speed=st.sampled_from([1.0, 0.9, 1.1]),
    slice=st.none()
    | st.builds(
        lambda path, place, name, crc32: FileSlice(path, *place, name, crc32),
        st.builds(Path, names),
        places,
        names,
        st.none() | st.integers(0, 2**32 - 1),
    ),
)


@settings(max_examples=60, deadline=None)
@given(given=st.lists(utterances, min_size=1, max_size=8, unique_by=lambda one: (one.path, one.start, one.seconds, one.speed)))
def test_utterances_come_back_as_they_were(given: list[Utterance]) -> None:
    columns = UtteranceColumns(given, in_order=True)
    again = pickle.loads(pickle.dumps(columns))
    for found in (columns, again):
        assert len(found) == len(given) and found == given
        for one, expected in zip(found, given, strict=True):
            for field in dataclasses.fields(Utterance):  # also those that do not count for equality
                assert getattr(one, field.name) == getattr(expected, field.name), field.name
        assert list(found.paths()) == [str(one.path) for one in given]
        assert [found.speakers[label] for label in found.labels] == [one.speaker for one in given]
    ordered = Corpus.of(reversed(given))
    assert list(ordered.utterances) == sorted(
        given, key=lambda one: (one.speaker, str(one.path), one.start, one.seconds or 0.0, one.speed)
    )
    assert ordered.speakers == tuple(sorted({one.speaker for one in given}))


def test_twice_and_none() -> None:
    one = Utterance(Path("a/b.wav"), "x", 1.0)
    with pytest.raises(DataError, match=r"a/b\.wav is listed twice \(speakers 'x' and 'y', start 1\.0 s\)"):
        UtteranceColumns([one, dataclasses.replace(one, speaker="y")], in_order=True)
    with pytest.raises(DataError, match="no utterances"):
        UtteranceColumns([], in_order=True)


def test_an_utterance_takes_little_memory_and_next_to_nothing_of_a_pickle() -> None:
    corpus = Corpus.of(
        Utterance(Path(f"/speech/id{i // 20:05}/video{i // 5:06}/{i % 5:05}.wav"), f"id{i // 20:05}", seconds=4.0)
        for i in range(4000)
    )
    columns = corpus.utterances
    assert isinstance(columns, UtteranceColumns)
    assert sum(array.nbytes for array in columns._arrays.values()) < 120 * len(corpus)
    assert len(pickle.dumps(columns)) < 1000
    assert pickle.loads(pickle.dumps(corpus)) == corpus


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_of_every_start_method_map_the_corpus_and_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The start method of Python 3.14 pickled every utterance into every worker, at every epoch."""
    utterances = []
    for index in range(6):
        soundfile.write(tmp_path / f"{index}.wav", np.full(3200, (index + 1) / 10, dtype=np.float32), 16000, subtype="FLOAT")
        utterances.append(Utterance(tmp_path / f"{index}.wav", f"s{index // 2}"))
    corpus = Corpus.of(utterances)
    starts: list[str] = []
    original = multiprocessing.get_context(method).Process.start

    def counted(self: multiprocessing.process.BaseProcess) -> None:
        starts.append(self.name)
        original(self)

    monkeypatch.setattr(multiprocessing.get_context(method).Process, "start", counted)
    loader = BatchLoader(CropDataset(corpus, 0.1, seed=1), num_workers=1, start_method=method)
    draws = [[Draw(index, 0, index) for index in pair] for pair in ((0, 5), (3, 2))]
    for _ in range(2):
        found = list(loader.read(draws))
        expected = list(BatchLoader(CropDataset(corpus, 0.1, seed=1)).read(draws))
        assert all(torch.equal(one.audio, other.audio) for one, other in zip(found, expected, strict=True))
        assert [one.labels.tolist() for one in found] == [[0, 2], [1, 1]]
    loader.close()
    assert len(starts) == 1  # two epochs, one worker

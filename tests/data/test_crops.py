"""Crops: where they come from, what they depend on, and errors from worker processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mrl.data import Corpus, CropDataset, Draw, Utterance, WholeUtterances, load_batches
from mrl.data.crops import BatchLoader, Replacements, fit_length
from mrl.errors import AudioLoadingError, InputError

RATE = 16000


def _ramp(path: Path, seconds: float) -> Path:
    """A file in which each sample tells its own place."""
    count = round(seconds * RATE)
    soundfile.write(path, (np.arange(count) + 1).astype(np.float32) / 2**18, RATE, subtype="FLOAT")
    return path


def _places(audio: np.ndarray) -> np.ndarray:
    return np.rint(audio * 2**18).astype(int) - 1


@pytest.mark.parametrize("known", [True, False])
def test_crops_are_stretches_of_the_file(tmp_path: Path, known: bool) -> None:
    corpus = Corpus.of([Utterance(_ramp(tmp_path / "a.wav", 1.0), "a", seconds=1.0 if known else None)])
    starts = []
    for position in range(30):
        crop, label = CropDataset(corpus, 0.25, seed=3)[Draw(0, 0, position)]
        places = _places(crop)
        assert label == 0 and len(places) == RATE // 4 and crop.dtype == np.float32
        assert np.array_equal(places, np.arange(places[0], places[0] + len(places)))
        starts.append(int(places[0]))
    assert min(starts) < 2000 < 10000 < max(starts) <= RATE * 3 // 4


def test_a_stretch_of_a_file_is_never_left(tmp_path: Path) -> None:
    corpus = Corpus.of([Utterance(_ramp(tmp_path / "a.wav", 1.0), "a", start=0.5, seconds=0.3)])
    for position in range(20):
        places = _places(CropDataset(corpus, 0.1)[Draw(0, 0, position)][0])
        assert places.min() >= RATE // 2 and places.max() < 0.8 * RATE + 1
    whole, _ = WholeUtterances(corpus, 10.0)[0]
    assert _places(whole)[[0, -1]].tolist() == [8000, 12799]
    assert len(WholeUtterances(corpus, 0.2)[0][0]) == 3200


def test_short_utterances_repeat(tmp_path: Path) -> None:
    corpus = Corpus.of([Utterance(_ramp(tmp_path / "a.wav", 0.1), "a")])
    places = _places(CropDataset(corpus, 0.25)[Draw(0, 0, 0)][0])
    assert np.array_equal(places, np.arange(4000) % 1600)
    assert fit_length(np.arange(3, dtype=np.float32), 7).tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_a_crop_depends_on_seed_epoch_and_position_alone(tmp_path: Path) -> None:
    corpus = Corpus.of([Utterance(_ramp(tmp_path / "a.wav", 1.0), "a")])
    seeds = []

    def augment(speech: np.ndarray, seed: int) -> np.ndarray:
        seeds.append(seed)
        return speech

    first = CropDataset(corpus, 0.2, seed=1, augment=augment)
    crops = {(epoch, position): first[Draw(0, epoch, position)][0] for epoch in (0, 1) for position in (0, 1)}
    assert len({_places(crop)[0] for crop in crops.values()}) == 4
    assert len(set(seeds)) == 4
    again = CropDataset(corpus, 0.2, seed=1)[Draw(0, 1, 1)][0]
    assert np.array_equal(again, crops[1, 1])
    assert not np.array_equal(CropDataset(corpus, 0.2, seed=2)[Draw(0, 1, 1)][0], crops[1, 1])


def test_speed_copies_sound_higher(tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(2 * RATE) / RATE).astype(np.float32) * 0.5
    soundfile.write(tmp_path / "a.wav", tone, RATE)
    corpus = Corpus.of([Utterance(tmp_path / "a.wav", "a")]).with_speed_copies([1.25])
    crop, label = CropDataset(corpus, 1.0)[Draw(1, 0, 0)]
    assert label == 1 and len(crop) == RATE
    spectrum = np.abs(np.fft.rfft(crop * np.hanning(len(crop))))
    assert np.argmax(spectrum) == pytest.approx(1250, abs=1)
    assert len(WholeUtterances(corpus, 30.0)[1][0]) == pytest.approx(2 * RATE / 1.25, abs=2)


def test_silent_places_are_drawn_again(tmp_path: Path) -> None:
    audio = np.zeros(RATE, dtype=np.float32)
    audio[8000:] = 0.1
    soundfile.write(tmp_path / "half.wav", audio, RATE)
    soundfile.write(tmp_path / "none.wav", np.zeros(RATE, dtype=np.float32), RATE)
    corpus = Corpus.of([Utterance(tmp_path / "half.wav", "a"), Utterance(tmp_path / "none.wav", "b")])
    for position in range(20):
        assert CropDataset(corpus, 0.1)[Draw(0, 0, position)][0].any()
    with pytest.raises(AudioLoadingError, match=r"none\.wav: only silence"):
        CropDataset(corpus, 0.1)[Draw(1, 0, 0)]


def test_crop_seconds_must_be_positive() -> None:
    with pytest.raises(InputError, match="crop_seconds"):
        CropDataset(Corpus.of([Utterance(Path("x"), "a")]), 0.0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_padded_and_in_order(tmp_path: Path, num_workers: int) -> None:
    utterances = [Utterance(_ramp(tmp_path / f"{i}.wav", 0.1 * (i + 1)), f"s{i}") for i in range(4)]
    source = WholeUtterances(Corpus.of(utterances), 10.0)
    before = torch.get_rng_state()
    batches = list(load_batches(source, [[3, 0], [1], [2]], num_workers=num_workers))
    assert torch.equal(torch.get_rng_state(), before)  # reading must not change what training draws
    assert [batch.labels.tolist() for batch in batches] == [[3, 0], [1], [2]]
    assert batches[0].audio.shape == (2, 6400) and batches[0].lengths.tolist() == [6400, 1600]
    assert not batches[0].equal_lengths and batches[1].equal_lengths
    assert not batches[0].audio[1, 1600:].any()
    assert _places(batches[0].audio[1, :1600].numpy())[-1] == 1599
    assert list(load_batches(source, [], num_workers=num_workers)) == []


@pytest.mark.parametrize("num_workers", [0, 1])
def test_errors_arrive_as_they_were_raised(tmp_path: Path, num_workers: int) -> None:
    (tmp_path / "bad.wav").write_text("this is not audio")
    source = WholeUtterances(Corpus.of([Utterance(tmp_path / "bad.wav", "a")]), 10.0)
    with pytest.raises(AudioLoadingError, match=r"bad\.wav") as caught:
        list(load_batches(source, [[0]], num_workers=num_workers))
    assert "Traceback" not in str(caught.value)


@pytest.fixture
def with_bad_ones(tmp_path: Path) -> Corpus:
    """Three speakers with three utterances each, of which one is not audio and another silent."""
    utterances = []
    for index in range(9):
        path = tmp_path / f"{index}.wav"
        sound = np.zeros(4000, dtype=np.float32) if index == 4 else np.full(4000, (index + 1) / 10, dtype=np.float32)
        soundfile.write(path, sound, RATE, subtype="FLOAT")
        utterances.append(Utterance(path, f"s{index // 3}"))
    utterances[1].path.write_bytes(b"nothing")
    return Corpus.of(utterances)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_draws_are_replaced_by_the_same_speaker_and_named(with_bad_ones: Corpus, num_workers: int) -> None:
    corpus = with_bad_ones
    draws = [[Draw(index, epoch, index) for index in range(9)] for epoch in range(3)]
    loader = BatchLoader(CropDataset(corpus, 0.1, seed=3, replacements=Replacements(corpus, seed=3)), num_workers=num_workers)
    batches = [batch for _ in range(2) for batch in loader.read(draws)]  # two epochs of the same workers
    loader.close()
    assert all(torch.equal(first.audio, again.audio) for first, again in zip(batches[:3], batches[3:], strict=True))
    clean = CropDataset(corpus, 0.1, seed=3)
    for batch, keys in zip(batches, draws * 2, strict=True):
        assert batch.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]  # pairs and balance stay
        for index in (0, 2, 3, 5, 6, 7, 8):
            assert np.array_equal(batch.audio[index].numpy(), clean[keys[index]][0])
        named = [problem.partition(": ")[0] for problem in batch.problems]
        assert named == [str(corpus.utterances[index].path) for index in (1, 4)]
    replaced = {round(float(batch.audio[index, 0]), 2) for batch in batches for index in (1, 4)}
    assert replaced <= {0.1, 0.3, 0.4, 0.6} and len(replaced) > 1

    excluded = CropDataset(corpus, 0.1, seed=3, replacements=Replacements(corpus, seed=3, excluded={1, 4}))
    for batch, expected in zip(load_batches(excluded, draws), batches, strict=False):
        assert batch.problems == () and torch.equal(batch.audio, expected.audio)  # excluded or bad: the same draws


def test_without_replacements_a_bad_draw_is_an_error(with_bad_ones: Corpus) -> None:
    with pytest.raises(AudioLoadingError, match=r"1\.wav"):
        list(load_batches(CropDataset(with_bad_ones, 0.1), [[Draw(1, 0, 0)]]))
    everything = Replacements(with_bad_ones, seed=0, excluded=range(9))
    with pytest.raises(AudioLoadingError, match="is excluded"):
        list(load_batches(CropDataset(with_bad_ones, 0.1, replacements=everything), [[Draw(0, 0, 0)]]))

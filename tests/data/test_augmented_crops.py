"""Crops of full length at any speed, and everything else as without the change of speed."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from mrl.audio import Augmenter, change_speed
from mrl.data import Corpus, CropDataset, Draw, Utterance
from mrl.data.crops import augmented_crop

SPEED = Augmenter(speed_probability=1.0, speed_factors=(0.8, 1.25))


@pytest.fixture(scope="module")
def utterance(tmp_path_factory: pytest.TempPathFactory) -> Utterance:
    """Two seconds of a 500 Hz tone."""
    path = tmp_path_factory.mktemp("tone") / "tone.wav"
    tone = 0.3 * np.sin(2 * np.pi * 500 * np.arange(32000) / 16000)
    soundfile.write(str(path), tone.astype(np.float32), 16000, subtype="FLOAT")
    return Utterance(path, "one")


def frequency(crop: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
    spectrum = np.abs(np.fft.rfft(crop * np.hanning(len(crop)), 4 * len(crop)))
    return float(np.argmax(spectrum)) * 16000 / (4 * len(crop))


def test_speed_changes_the_sound_and_not_the_length(utterance: Utterance) -> None:
    found = set()
    for number in range(12):
        crop = augmented_crop(utterance, 8000, (0, 0, number), SPEED)
        assert crop.shape == (8000,)
        factor = frequency(crop) / 500.0
        nearest = min((0.8, 1.25), key=lambda one: abs(one - factor))
        assert factor == pytest.approx(nearest, rel=0.01)
        assert np.sqrt(np.mean(crop[-500:] ** 2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.05)  # no silence at the end
        found.add(nearest)
    assert found == {0.8, 1.25}


def test_it_comes_on_top_of_a_speed_copy(utterance: Utterance) -> None:
    copy = Corpus.of([utterance]).with_speed_copies([1.1]).utterances[1]
    up = Augmenter(speed_probability=1.0, speed_factors=(1.25,))
    assert frequency(augmented_crop(copy, 8000, (0, 0, 0), up)) == pytest.approx(500.0 * 1.1 * 1.25, rel=0.01)


def test_without_speed_everything_is_as_it_always_was(utterance: Utterance) -> None:
    """The place of the crop and the seed of the augmentation come from the key as before there was a speed to draw."""
    seeds: list[int] = []

    def note(
        waveform: np.ndarray[tuple[int, ...], np.dtype[np.float32]], seed: int
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        seeds.append(seed)
        return waveform

    class Never:
        """Draws the speed 1."""

        def draw_speed(self, rng: np.random.Generator) -> float:
            rng.random(100)
            return 1.0

        __call__ = staticmethod(note)

    first = CropDataset(Corpus.of([utterance]), 0.5, seed=4, augment=note)[Draw(0, 2, 3)][0]
    second = CropDataset(Corpus.of([utterance]), 0.5, seed=4, augment=Never())[Draw(0, 2, 3)][0]
    random = np.random.default_rng((4, 2, 3))
    start = random.uniform(0.0, 1.5)
    whole = soundfile.read(str(utterance.path), dtype="float32")[0]
    assert np.array_equal(first, whole[round(start * 16000) : round(start * 16000) + 8000])
    assert np.array_equal(first, second)
    assert seeds == [int(random.integers(2**63))] * 2


def test_a_short_utterance_is_repeated_at_its_speed(utterance: Utterance) -> None:
    short = Utterance(utterance.path, "one", seconds=0.3)
    crop = augmented_crop(short, 8000, (0, 0, 0), Augmenter(speed_probability=1.0, speed_factors=(1.25,)))
    once = change_speed(soundfile.read(str(utterance.path), dtype="float32")[0][:4800], 1.25)
    assert np.allclose(crop[: len(once)], once, atol=1e-3)
    assert np.array_equal(crop[len(once) :], crop[: 8000 - len(once)])

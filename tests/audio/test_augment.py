from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from mrl.audio import Augmenter, load_audio, reverberate
from mrl.errors import AudioLoadingError, DataError, InputError
from tests.audio.sounds import tone, write_with_soundfile


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for kind, count in (("noise", 3), ("babble", 4), ("rooms", 2)):
        (tmp_path / kind).mkdir()
        for index in range(count):
            samples = 0.1 * rng.standard_normal(12000).astype(np.float32)
            if kind == "rooms":
                samples = samples[:4000] * np.exp(-np.arange(4000) / 500).astype(np.float32)
                samples[50] = 0.9
            write_with_soundfile(tmp_path / kind / f"{index}.wav", samples, 16000, subtype="FLOAT")
    return tmp_path


def everything(folders: Path, **settings: float) -> Augmenter:
    chosen = dict.fromkeys(("noise", "babble", "room", "speed", "gain"), 0.5)
    named = {f"{name}_probability": value for name, value in chosen.items()} | settings
    return Augmenter.from_folders(noise=folders / "noise", babble=folders / "babble", rooms=folders / "rooms", **named)


def test_the_same_seed_gives_the_same_samples_in_any_order_and_process(folders: Path) -> None:
    augmenter, speech = everything(folders), tone(16000, 0.6)
    forwards = [augmenter(speech, seed) for seed in range(20)]
    other = pickle.loads(pickle.dumps(everything(folders, cache_megabytes=0.01)))
    for seed in reversed(range(20)):
        assert np.array_equal(other(speech, seed), forwards[seed])
    assert len({samples.tobytes() for samples in forwards}) > 15
    assert all(samples.dtype == np.float32 and np.max(np.abs(samples)) <= 1.0 for samples in forwards)
    assert np.array_equal(speech, tone(16000, 0.6))


def test_probabilities_are_kept(folders: Path) -> None:
    speech = tone(16000, 0.05)
    augmenter = Augmenter(gain_probability=0.3, gain_db=(-6.0, -5.0))
    changed = [not np.array_equal(augmenter(speech, seed), speech) for seed in range(1000)]
    assert np.mean(changed) == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("kind", ["noise", "babble"])
def test_ratios_lie_in_their_range_and_fill_it(folders: Path, kind: str) -> None:
    options = {f"{kind}_probability": 1.0, f"{kind}_snr_db": (5.0, 10.0)}
    augmenter = Augmenter.from_folders(**{kind: folders / kind}, **options)
    speech = tone(16000, 0.5, amplitude=0.05)
    noises = [augmenter(speech, seed) - speech for seed in range(100)]
    ratios = np.array([10 * np.log10(np.mean(speech**2) / np.mean(noise**2)) for noise in noises])
    assert ratios.min() > 4.9
    assert ratios.max() < 10.1
    assert np.mean(ratios) == pytest.approx(7.5, abs=0.5)
    assert np.ptp(ratios) > 4.0


def test_speed_and_room_are_what_the_functions_do(folders: Path) -> None:
    speech = tone(16000, 0.5)
    always = Augmenter(speed_probability=1.0, speed_factors=(0.9, 1.05))
    assert {always.draw_speed(np.random.default_rng(seed)) for seed in range(20)} == {0.9, 1.05}
    assert np.array_equal(always(speech, 3), speech)  # the speed is changed where crops are cut
    sometimes = [Augmenter(speed_probability=0.3).draw_speed(np.random.default_rng(seed)) for seed in range(1000)]
    assert np.mean(np.array(sometimes) != 1.0) == pytest.approx(0.3, abs=0.05)
    wet = Augmenter.from_folders(rooms=folders / "rooms", room_probability=1.0)(speech, 3)
    rooms = [load_audio(path) for path in sorted((folders / "rooms").iterdir())]
    assert any(np.array_equal(wet, reverberate(speech, room)) for room in rooms)


def test_one_kind_of_change_does_not_move_the_others(folders: Path) -> None:
    """With noise switched off, the level change of a seed stays what it was."""
    speech = tone(16000, 0.2, amplitude=0.01)
    with_noise = Augmenter.from_folders(
        noise=folders / "noise", noise_probability=1.0, noise_snr_db=(60, 60), gain_probability=1.0
    )
    without = Augmenter(gain_probability=1.0)
    for seed in range(10):
        assert np.linalg.norm(with_noise(speech, seed)) == pytest.approx(np.linalg.norm(without(speech, seed)), rel=0.01)


def test_loud_sums_are_scaled_not_clipped(folders: Path) -> None:
    augmenter = Augmenter(gain_probability=1.0, gain_db=(20.0, 20.0))
    speech = tone(16000, 0.1, amplitude=0.5)
    assert np.max(np.abs(augmenter(speech, 0) - speech / np.max(speech))) < 1e-6


def test_the_cache_is_bounded(folders: Path) -> None:
    augmenter = everything(folders, noise_probability=1.0, babble_probability=1.0, cache_megabytes=0.1)  # two files of 48 kB
    for seed in range(10):
        augmenter(tone(16000, 0.3), seed)
        assert 0 < augmenter._cache.nbytes <= 100_000


def test_long_noise_is_read_in_parts(tmp_path: Path) -> None:
    samples = 0.1 * np.random.default_rng(0).standard_normal(70 * 16000).astype(np.float32)
    path = write_with_soundfile(tmp_path / "long.wav", samples, 16000)
    augmenter = Augmenter(noise_files=(path,), noise_probability=1.0, noise_snr_db=(0.0, 0.0))
    speech = tone(16000, 1.0, amplitude=0.1)
    first, second = augmenter(speech, 0) - speech, augmenter(speech, 1) - speech
    assert abs(np.dot(first, second)) < 0.1 * np.dot(first, first)
    assert augmenter._cache.nbytes == 0


def test_settings_are_json_and_tell_augmenters_apart(folders: Path) -> None:
    one, other = everything(folders), everything(folders, noise_probability=0.4)
    assert json.loads(json.dumps(one.settings())) == one.settings()
    assert one.settings() == everything(folders, cache_megabytes=1.0).settings()
    assert one.settings() != other.settings()
    assert len(one.settings()["noise_files"]) == 3


def test_silence_passes(folders: Path) -> None:
    assert not everything(folders)(np.zeros(100, np.float32), 1).any()


def test_faults(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no noise_files"):
        Augmenter(noise_probability=0.5)
    with pytest.raises(InputError, match="expected 0 to 1"):
        Augmenter(gain_probability=1.5)
    with pytest.raises(InputError, match="noise_snr_db"):
        Augmenter(noise_snr_db=(10.0, 0.0))
    with pytest.raises(InputError, match="speed_factors"):
        Augmenter(speed_factors=(0.1,))
    with pytest.raises(InputError, match="babble_voices"):
        Augmenter(babble_voices=(0, 2))
    with pytest.raises(DataError, match="does not exist"):
        Augmenter.from_folders(noise=tmp_path / "nowhere")
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="no recordings"):
        Augmenter.from_folders(noise=tmp_path / "bare")
    (tmp_path / "broken.wav").write_bytes(b"RIFF" + bytes(100))
    with pytest.raises(AudioLoadingError, match=r"broken\.wav"):
        Augmenter(noise_files=(tmp_path / "broken.wav",), noise_probability=1.0)(tone(16000, 0.1), 0)

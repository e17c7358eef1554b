"""Every kind of change measured, and kept apart from the others."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrl.audio import Augmenter, Change, FileSlice, RoomSimulation, clipped_share, reverberation_time, simulate_rooms
from mrl.audio.augment import log_spectral_correlation, measure, ratio_db, share_above_db
from mrl.audio.changes import change_gain
from mrl.audio.decoded import Waveform
from mrl.audio.synthetic import SyntheticVoice
from mrl.errors import DataError, InputError, MissingDependencyError
from tests.audio.sounds import tone, write_with_soundfile

ROOMS = RoomSimulation(count=3, rt60_seconds=(0.15, 0.25))


@pytest.fixture(scope="module")
def speech() -> Waveform:
    rng = np.random.default_rng(0)
    return SyntheticVoice.random(rng).say(rng, 1.0)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, ...]]:
    """Noise, voices and one measured room."""
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    paths: dict[str, list[Path]] = {"noise": [], "babble": [], "room": []}
    for kind, count in (("noise", 2), ("babble", 4), ("room", 1)):
        for index in range(count):
            samples = 0.1 * rng.standard_normal(12000).astype(np.float32)
            if kind == "room":
                samples = 10.0 * samples[:4000] * np.exp(-np.arange(4000) / 500).astype(np.float32)
            paths[kind].append(write_with_soundfile(folder / f"{kind}{index}.wav", samples, 16000, subtype="FLOAT"))
    return {f"{kind}_files": tuple(files) for kind, files in paths.items()}


def all_kinds(sounds: dict[str, tuple[Path, ...]], probability: float = 1.0, **changes: Any) -> Augmenter:
    kinds = ("noise", "babble", "room", "simulated_room", "gain", "clipping", "band", "codec")
    return Augmenter(
        **{**sounds, "simulated_rooms": ROOMS, **{f"{kind}_probability": probability for kind in kinds}, **changes}  # type: ignore[arg-type]
    )


def the_change(augmenter: Augmenter, speech: Waveform, seed: int) -> Change:
    (change,) = augmenter.trace(speech, seed)[1]
    return change


def test_the_streams_of_the_first_kinds_are_as_they_always_were(speech: Waveform) -> None:
    """Old runs used five streams; a sixth kind must not move them."""
    quiet = change_gain(speech, -20.0)
    for seed in range(5):
        rng = np.random.default_rng(np.random.SeedSequence(seed).spawn(5)[4])
        rng.random()
        assert np.array_equal(Augmenter(gain_probability=1.0)(quiet, seed), change_gain(quiet, rng.uniform(-6.0, 6.0)))


def test_switching_a_kind_off_leaves_what_is_drawn_for_the_others(speech: Waveform, sounds: dict[str, tuple[Path, ...]]) -> None:
    whole = {change.kind: dict(change.drawn) for change in all_kinds(sounds).trace(speech, 7)[1]}
    assert list(whole) == ["room", "noise", "babble", "gain", "clipping", "band", "codec"]
    for kind in whole:
        without = {
            change.kind: dict(change.drawn) for change in all_kinds(sounds, **{f"{kind}_probability": 0.0}).trace(speech, 7)[1]
        }
        expected = {name: drawn for name, drawn in whole.items() if name != kind}
        if kind == "room":  # its place is taken by a simulated one
            assert without.pop("simulated_room") in [{"room": number} for number in range(3)]
        assert without == expected


def test_a_call_is_the_end_of_its_trace(speech: Waveform, sounds: dict[str, tuple[Path, ...]]) -> None:
    augmenter = all_kinds(sounds, 0.5)
    for seed in range(8):
        result, changes = augmenter.trace(speech, seed)
        assert np.array_equal(result, augmenter(speech, seed))
        assert result.shape == speech.shape and result.dtype == np.float32
        assert float(np.max(np.abs(result))) <= 1.0
        if not changes:
            assert np.array_equal(result, speech)


def test_a_simulated_room_is_one_of_the_pool(speech: Waveform) -> None:
    augmenter = Augmenter(simulated_room_probability=1.0, simulated_rooms=ROOMS)
    pool = simulate_rooms(ROOMS)
    numbers = set()
    for seed in range(12):
        change = the_change(augmenter, speech, seed)
        numbers.add(change.drawn["room"])
        assert change.response is not None and np.array_equal(change.response, pool[change.drawn["room"]])
        assert 0.85 * 0.15 < reverberation_time(change.response, 16000) < 1.15 * 0.25
        assert "RT60 0." in measure(change)
    assert numbers == {0, 1, 2}


def test_a_simulated_room_is_for_those_without_a_measured_one(speech: Waveform, sounds: dict[str, tuple[Path, ...]]) -> None:
    augmenter = Augmenter(
        room_files=sounds["room_files"], room_probability=0.5, simulated_room_probability=1.0, simulated_rooms=ROOMS
    )
    kinds = [the_change(augmenter, speech, seed).kind for seed in range(60)]
    assert set(kinds) == {"room", "simulated_room"}
    assert kinds.count("room") == pytest.approx(30, abs=12)


def test_gain_and_clipping_are_drawn_from_their_ranges(speech: Waveform) -> None:
    quiet = change_gain(speech, -30.0)
    gains, levels = [], []
    for seed in range(60):
        change = the_change(Augmenter(gain_probability=1.0, gain_db=(-3.0, 9.0)), quiet, seed)
        assert ratio_db(change.after, change.before) == pytest.approx(change.drawn["gain_db"], abs=1e-4)
        gains.append(change.drawn["gain_db"])
        change = the_change(Augmenter(clipping_probability=1.0, clipping_level=(0.1, 0.3)), speech, seed)
        peaks = float(np.max(np.abs(change.after))) / float(np.max(np.abs(change.before)))
        assert peaks == pytest.approx(change.drawn["level"], rel=1e-4)
        assert clipped_share(change.after) > 0.01
        levels.append(peaks)
    assert -3.0 <= min(gains) < -2.0 and 8.0 < max(gains) <= 9.0
    assert 0.1 <= min(levels) < 0.12 and 0.28 < max(levels) <= 0.3


@pytest.mark.parametrize("band", ["narrowband", "telephone"])
def test_bands_end_where_they_should_and_speech_stays(speech: Waveform, band: str) -> None:
    noise = (0.1 * np.random.default_rng(0).standard_normal(16000)).astype(np.float32)
    augmenter = Augmenter(band_probability=1.0, bands=(band,))
    out = augmenter(noise, 0)
    assert share_above_db(noise, 4000.0) == pytest.approx(-3.0, abs=0.2)
    assert share_above_db(out, 4100.0) < -60.0
    below = 1.0 - 10.0 ** (share_above_db(out, 200.0) / 10.0)
    if band == "telephone":
        assert share_above_db(out, 3600.0) < -50.0
        assert below < 1e-3
    else:
        assert share_above_db(out, 3300.0) == pytest.approx(-10.0, abs=1.0)  # the filter falls off from 3650 Hz
        assert below == pytest.approx(0.055, abs=0.015)
    change = the_change(augmenter, speech, 0)
    assert log_spectral_correlation(change.before, change.after) > 0.99
    assert f"band: {band}" in measure(change)


@pytest.mark.parametrize("codec", ["g711_mulaw", "g711_alaw", "opus", "aac", "mp3"])
def test_codecs_of_every_rate_keep_speech_in_its_place(speech: Waveform, codec: str) -> None:
    augmenter = Augmenter(codec_probability=1.0, codecs=(codec,))
    for seed in range(3):
        change = the_change(augmenter, speech, seed)
        assert change.drawn["codec"] == codec
        assert change.after.shape == speech.shape
        assert log_spectral_correlation(change.before, change.after) > 0.8
        if codec.startswith("g711"):
            assert share_above_db(change.after, 4100.0) < -60.0
        else:
            low, high = augmenter.codec_kilobits[codec]
            assert low <= change.drawn["kilobits"] <= high
    assert np.array_equal(augmenter(speech, 1), augmenter(speech, 1))


def test_settings_tell_only_what_matters(sounds: dict[str, tuple[Path, ...]], tmp_path: Path) -> None:
    assert Augmenter(**sounds).settings() == {"sample_rate": 16000}  # type: ignore[arg-type]
    whole = all_kinds(sounds).settings()
    assert json.loads(json.dumps(whole)) == whole
    changes: tuple[dict[str, Any], ...] = (
        {"noise_snr_db": (1.0, 2.0)},
        {"babble_voices": (1, 2)},
        {"babble_snr_db": (1.0, 2.0)},
        {"simulated_rooms": RoomSimulation(count=3, rt60_seconds=(0.15, 0.25), seed=9)},
        {"gain_db": (0.0, 1.0)},
        {"clipping_level": (0.5, 0.6)},
        {"bands": ("narrowband",)},
        {"codecs": ("opus",)},
        {"codec_kilobits": {"opus": (9.0, 10.0), "aac": (16.0, 17.0)}},
        {"speed_probability": 0.1},
        {"room_probability": 0.9},
    )
    for change in changes:
        assert all_kinds(sounds, **change).settings() != whole, change
        off = all_kinds(sounds, 0.0, **{name: value for name, value in change.items() if not name.endswith("probability")})
        assert off.settings() == {"sample_rate": 16000}
    one = write_with_soundfile(tmp_path / "one.wav", tone(16000, 0.2), 16000)
    augmenter = Augmenter(noise_files=(one,), noise_probability=1.0)
    before = augmenter.settings()
    os.utime(one, ns=(1, 1))
    assert augmenter.settings() != before
    one.unlink()
    with pytest.raises(DataError, match=r"one\.wav.*leave it out of the augmentation"):
        augmenter.settings()


def test_voices_inside_a_shard_are_as_those_in_files(
    speech: Waveform, sounds: dict[str, tuple[Path, ...]], tmp_path: Path
) -> None:
    shard, slices, offset = tmp_path / "shard.tar", [], 0
    for path in sounds["babble_files"]:
        data = path.read_bytes()
        slices.append(FileSlice(shard, offset, len(data), path.name))
        offset += len(data)
    shard.write_bytes(b"".join(path.read_bytes() for path in sounds["babble_files"]))
    of_files = Augmenter(babble_files=sounds["babble_files"], babble_probability=1.0)
    of_shard = Augmenter(babble_files=tuple(slices), babble_probability=1.0)
    assert np.array_equal(of_files(speech, 2), of_shard(speech, 2))
    described = of_shard.settings()
    assert described["babble_files"][0] == f"{shard}/babble0.wav"
    assert json.loads(json.dumps(described)) == described


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clipping_level": (0.0, 0.5)}, "shares of the peak"),
        ({"clipping_level": (0.5, 1.5)}, "shares of the peak"),
        ({"bands": ()}, "bands is empty"),
        ({"bands": ("wideband",)}, "bands has 'wideband', expected some of narrowband, telephone"),
        ({"codecs": ("morse",)}, "codecs has 'morse'"),
        ({"codec_kilobits": {"opus": (32.0, 8.0)}}, "codec_kilobits of opus"),
        ({"codec_kilobits": {"g711_alaw": (8.0, 9.0)}}, "codec_kilobits has 'g711_alaw'"),
        ({"codecs": ("aac",), "codec_kilobits": {}}, "no range for it"),
        ({"simulated_room_probability": -0.1}, "simulated_room_probability is -0.1"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Augmenter(**settings)


def test_a_codec_that_is_not_there_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import av

    monkeypatch.setattr(av, "codecs_available", set())
    with pytest.raises(MissingDependencyError, match="no encoder for opus"):
        Augmenter(codec_probability=0.5, codecs=("opus",))
    Augmenter(codec_probability=0.5, codecs=("g711_alaw",))


def test_measures_of_equal_and_unrelated_sounds(speech: Waveform) -> None:
    assert log_spectral_correlation(speech, 0.5 * speech) == pytest.approx(1.0, abs=1e-3)
    assert abs(log_spectral_correlation(speech, speech[::-1].copy())) < 0.35
    assert ratio_db(speech, np.zeros_like(speech)) == pytest.approx(120.0, abs=0.1)
    with pytest.raises(InputError, match="cannot be compared"):
        log_spectral_correlation(speech, speech[:-1])

"""Simulated rooms, measured by Schroeder's backward integration of the responses."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
import pytest

from mrl.audio import RoomSimulation, reverberate, reverberation_time, simulate_rooms
from mrl.audio.simulated_rooms import ShoeboxRoom, draw_room, hash_of, simulate
from mrl.errors import InputError, MissingDependencyError

SMALL = RoomSimulation(count=4, rt60_seconds=(0.15, 0.3), seed=3)


@pytest.mark.parametrize("rt60", [0.2, 0.35, 0.5])
@pytest.mark.parametrize("size", [(3.2, 4.1, 2.5), (6.8, 4.6, 2.6), (8.6, 8.8, 2.5)])
def test_the_reverberation_time_is_what_was_asked_for(rt60: float, size: tuple[float, float, float]) -> None:
    """To 15 %; Sabine's and Eyring's formulas miss these rooms by up to 90 %."""
    room = ShoeboxRoom(size, (1.0, 1.5, 1.2), (size[0] - 1.0, size[1] - 1.2, 1.4), rt60)
    response = simulate(room)
    assert reverberation_time(response, 16000) == pytest.approx(rt60, rel=0.15)
    assert float(np.max(np.abs(response))) == 1.0


def test_the_direct_sound_comes_when_the_distance_says() -> None:
    near, far = (simulate(ShoeboxRoom((6.0, 5.0, 3.0), (1.0, 2.0, 1.5), (1.0 + d, 2.0, 1.5), 0.2)) for d in (1.0, 3.0))
    delays = [int(np.argmax(np.abs(response))) for response in (near, far)]
    assert delays[1] - delays[0] == pytest.approx(2.0 / 343.0 * 16000, abs=1.0)


def test_rooms_lie_in_their_ranges_and_fill_them() -> None:
    settings = RoomSimulation(rt60_seconds=(0.3, 0.5), distance_metres=(1.0, 2.0), seed=1)
    rooms = [draw_room(settings, index) for index in range(200)]
    times = [room.rt60 for room in rooms]
    assert 0.3 <= min(times) < 0.31 < 0.49 < max(times) <= 0.5
    distances = [float(np.linalg.norm(np.subtract(room.talker, room.microphone))) for room in rooms]
    assert 1.0 <= min(distances) < 1.1 < 1.9 < max(distances) <= 2.0
    for room in rooms:
        assert all(3.0 <= side <= 9.0 for side in room.size[:2]) and 2.4 <= room.size[2] <= 4.0
        for place in (room.talker, room.microphone):
            assert all(0.4 <= here <= side - 0.4 for here, side in zip(place, room.size, strict=True))


def test_the_pool_follows_from_its_settings_alone() -> None:
    pool = simulate_rooms(SMALL)
    assert len(pool) == 4 and len({response.tobytes() for response in pool}) == 4
    assert hash_of(pool) == hash_of(simulate_rooms(SMALL))
    longer = simulate_rooms(RoomSimulation(count=5, rt60_seconds=(0.15, 0.3), seed=3))
    assert hash_of(longer[:4]) == hash_of(pool)  # a larger pool begins with the smaller one
    assert hash_of(simulate_rooms(RoomSimulation(count=4, rt60_seconds=(0.15, 0.3), seed=4))) != hash_of(pool)
    assert not any(response.flags.writeable for response in pool)


def test_speech_in_a_simulated_room_keeps_its_place_in_time() -> None:
    speech = (0.1 * np.random.default_rng(0).standard_normal(16000)).astype(np.float32)
    wet = reverberate(speech, simulate_rooms(SMALL)[0])
    lags = np.fft.irfft(np.fft.rfft(wet, 32768) * np.conj(np.fft.rfft(speech, 32768)))
    assert int(np.argmax(np.abs(lags))) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, "count 0"),
        ({"rt60_seconds": (0.5, 0.2)}, r"rt60_seconds is \(0.5, 0.2\)"),
        ({"rt60_seconds": (0.2, 9.0)}, "within 0.1 to 1.5"),
        ({"floor_metres": (0.5, 2.0)}, "floor_metres"),
        ({"height_metres": (2.0, float("nan"))}, "height_metres"),
    ],
)
def test_settings_that_cannot_be_used(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RoomSimulation(**changes)  # type: ignore[arg-type]


def test_a_distance_that_no_room_has() -> None:
    with pytest.raises(InputError, match="widen distance_metres"):
        draw_room(RoomSimulation(floor_metres=(2.0, 2.1), distance_metres=(8.0, 9.0)), 0)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    original: Callable[..., object] = importlib.import_module

    def absent(name: str, *rest: object) -> object:
        if name == "pyroomacoustics":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingDependencyError, match=r"redimnet-mrl\[rooms\]"):
        simulate_rooms(SMALL)

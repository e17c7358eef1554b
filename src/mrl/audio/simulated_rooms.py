"""Simulated rooms: image-source responses of random shoebox rooms with the reverberation time that is asked for.

The images come from pyroomacoustics (extra ``rooms``; Scheibler, Bezzam and Dokmanić 2018; image sources after Allen and Berkley
1979). The formulas of Sabine and Eyring, by which the absorption of the walls is usually chosen, assume a diffuse field and miss
the decay of an empty shoebox by up to a factor of two. Here the absorption is solved for instead: how often each image was
reflected and from how far it comes is known before any absorption is chosen, so that the decay curve for any absorption is one
matrix product, and T30 of that curve is brought to the target by bisection.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.audio.decoded import Waveform
from mrl.audio.reading import SAMPLE_RATE
from mrl.errors import InputError, MissingDependencyError
from mrl.progress import progress_bar

_WALL_MARGIN = 0.4  # metres from talker or microphone to the nearest wall, at least
_SHARE_SIMULATED = 0.75  # of the decay by 60 dB; the fit needs the first 35 dB and what lies below is masked in speech
_BIN_SECONDS = 0.001
_DRAWS = 1000
_BISECTIONS = 24


@dataclass(frozen=True)
class RoomSimulation:
    """A pool of random rooms, each with a talker and a microphone; the same settings give the same pool.

    Args:
        count: how many rooms.
        rt60_seconds: range of the reverberation time, drawn evenly.
        floor_metres: range of length and width, drawn evenly and independently.
        height_metres: range of the height.
        distance_metres: range of the distance from talker to microphone, which are drawn evenly over the room.
        seed: of all that is drawn.

    Raises:
        InputError: a setting has an unusable value.
    """

    count: int = 64
    rt60_seconds: tuple[float, float] = (0.2, 0.8)
    floor_metres: tuple[float, float] = (3.0, 9.0)
    height_metres: tuple[float, float] = (2.4, 4.0)
    distance_metres: tuple[float, float] = (0.5, 3.0)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or self.seed < 0:
            raise InputError(f"simulated rooms: count {self.count} and seed {self.seed}, expected 1 or more and 0 or more")
        allowed = {
            "rt60_seconds": (0.1, 1.5),
            "floor_metres": (1.5, 30.0),
            "height_metres": (1.5, 10.0),
            "distance_metres": (0.1, 30.0),
        }
        for name, (lowest, highest) in allowed.items():
            low, high = getattr(self, name)
            if not lowest <= low <= high <= highest:
                raise InputError(
                    f"simulated rooms: {name} is ({low:g}, {high:g}), expected the lower first, within {lowest:g} to {highest:g}"
                )


@dataclass(frozen=True)
class ShoeboxRoom:
    """An empty rectangular room, all walls alike.

    Attributes:
        size: length, width, height in metres.
        talker, microphone: positions in metres.
        rt60: reverberation time in seconds.
    """

    size: tuple[float, float, float]
    talker: tuple[float, float, float]
    microphone: tuple[float, float, float]
    rt60: float


def draw_room(settings: RoomSimulation, index: int) -> ShoeboxRoom:
    """Return room number ``index`` of the pool, which depends on the settings and the index alone.

    Raises:
        InputError: no two places in it are as far apart as the settings ask.
    """
    rng = np.random.default_rng((settings.seed, index))
    rt60 = float(rng.uniform(*settings.rt60_seconds))
    size = np.array([*rng.uniform(*settings.floor_metres, size=2), rng.uniform(*settings.height_metres)])
    low, high = settings.distance_metres
    for _ in range(_DRAWS):
        talker, microphone = rng.uniform(_WALL_MARGIN, size - _WALL_MARGIN, size=(2, 3))
        if low <= float(np.linalg.norm(talker - microphone)) <= high:
            return ShoeboxRoom(_triple(size), _triple(talker), _triple(microphone), rt60)
    raise InputError(
        f"simulated rooms: of {_DRAWS} random pairs of places in a room of {size[0]:.1f} x {size[1]:.1f} x {size[2]:.1f} m none "
        f"was {low:g} to {high:g} m apart; widen distance_metres or floor_metres"
    )


def simulate(room: ShoeboxRoom, sample_rate: int = SAMPLE_RATE) -> Waveform:
    """Return the impulse response ``(samples,)`` of a room, peak 1, until its energy has decayed by about 45 dB.

    Its T30 (:func:`mrl.audio.reverberation_time`) is the room's RT60 to within about 10 %: the absorption is solved for with the
    energies of the images, whose interference is what remains.

    Raises:
        MissingDependencyError: pyroomacoustics is not installed.
    """
    # Reaching all images up to a delay takes as many reflections as the smallest two sides ask for.
    nearest = min(a * b / math.hypot(a, b) for a, b in itertools.combinations(room.size, 2))
    speed = _speed_of_sound()
    order = math.ceil(speed * room.rt60 * _SHARE_SIMULATED / nearest)
    trial = _shoebox(room, 0.5, order, sample_rate)
    trial.image_source_model()
    images = trial.sources[0]
    distances = np.linalg.norm(images.images - np.array(room.microphone)[:, None], axis=0)
    absorption = _absorption_for(room.rt60, np.asarray(images.orders), (distances - distances.min()) / speed, distances)
    final = _shoebox(room, absorption, order, sample_rate)
    final.compute_rir()
    complete = round((room.rt60 * _SHARE_SIMULATED + float(distances.min()) / speed) * sample_rate)
    response = np.asarray(final.rir[0][0])[:complete]
    peak = float(np.max(np.abs(response)))
    return (response / peak).astype(np.float32)


def simulate_rooms(settings: RoomSimulation, sample_rate: int = SAMPLE_RATE) -> tuple[Waveform, ...]:
    """Return the responses of the whole pool, read-only; about 0.2 s each.

    Raises:
        MissingDependencyError: pyroomacoustics is not installed.
        InputError: see :func:`draw_room`.
    """
    responses = []
    with progress_bar("simulating rooms", settings.count, unit="rooms") as advance:
        for index in range(settings.count):
            response = simulate(draw_room(settings, index), sample_rate)
            response.setflags(write=False)
            responses.append(response)
            advance(1)
    return tuple(responses)


def check_rooms(settings: RoomSimulation) -> None:
    """Raise what :func:`simulate_rooms` would raise, in no time.

    Raises:
        MissingDependencyError: pyroomacoustics is not installed.
        InputError: see :func:`draw_room`.
    """
    _library()
    for index in range(settings.count):
        draw_room(settings, index)


def hash_of(responses: tuple[Waveform, ...]) -> str:
    """Return a SHA-256 of responses: another release of the simulator may give other ones for the same settings."""
    digest = hashlib.sha256()
    for response in responses:
        digest.update(len(response).to_bytes(8, "little") + response.tobytes())
    return digest.hexdigest()


def _absorption_for(
    rt60: float, orders: npt.NDArray[Any], delays: npt.NDArray[np.float64], distances: npt.NDArray[np.float64]
) -> float:
    """The absorption (share of the energy lost at each reflection) with which the images decay by 60 dB in ``rt60`` seconds."""
    bins = math.ceil(rt60 * _SHARE_SIMULATED / _BIN_SECONDS)
    places = (delays / _BIN_SECONDS).astype(np.int64)
    early = places < bins
    highest = int(orders.max())
    cells = orders[early].astype(np.int64) * bins + places[early]
    energies = np.bincount(cells, weights=1.0 / distances[early] ** 2, minlength=(highest + 1) * bins)
    by_order = energies.reshape(highest + 1, bins)
    low, high = 1e-4, 0.9999
    for _ in range(_BISECTIONS):
        absorption = (low + high) / 2.0
        if _decay_time((1.0 - absorption) ** np.arange(highest + 1) @ by_order) > rt60:
            low = absorption
        else:
            high = absorption
    return (low + high) / 2.0


def _decay_time(energies: npt.NDArray[np.float64]) -> float:
    """T30 of energies per bin, or infinity where they do not fall by 35 dB."""
    remaining = np.cumsum(energies[::-1])[::-1]
    decay = 10.0 * np.log10(np.maximum(remaining / remaining[0], 1e-30))
    span = np.flatnonzero((decay <= -5.0) & (decay >= -35.0))
    if decay[-1] > -35.0:
        return math.inf
    if len(span) < 2:
        return 0.0
    return float(-60.0 / np.polyfit(span * _BIN_SECONDS, decay[span], 1)[0])


def _shoebox(room: ShoeboxRoom, absorption: float, order: int, sample_rate: int) -> Any:
    acoustics = _library()
    shoebox = acoustics.ShoeBox(
        np.array(room.size), fs=sample_rate, materials=acoustics.Material(absorption), max_order=order, air_absorption=False
    )
    shoebox.add_source(np.array(room.talker))
    shoebox.add_microphone(np.array(room.microphone))
    return shoebox


def _speed_of_sound() -> float:
    return float(_library().constants.get("c"))


def _library() -> Any:
    try:
        return importlib.import_module("pyroomacoustics")
    except ImportError as error:
        raise MissingDependencyError(
            'simulated rooms need pyroomacoustics: pip install "redimnet-mrl[rooms]", or set their probability to 0'
        ) from error


def _triple(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])

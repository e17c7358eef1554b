"""Random, repeatable augmentation of training utterances from folders of noise, voices and room responses."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from mrl.audio.folders import find_audio_files
from mrl.audio.noise import add_babble, add_noise, change_gain
from mrl.audio.reading import SAMPLE_RATE, audio_info, load_audio
from mrl.audio.rooms import reverberate
from mrl.audio.speed import change_speed
from mrl.audio.windows import Waveform
from mrl.errors import DataError, InputError

_LONG_FILE_SECONDS = 60.0  # longer noises are read in parts, shorter ones kept whole
_DRAWS = 20  # parts of a file to try before it is called silent


class WaveformCache:
    """Recordings read lately, whole, up to a total size; safe to use from several threads, and empty after pickling."""

    def __init__(self, sample_rate: int, megabytes: float) -> None:
        self._sample_rate = sample_rate
        self._megabytes = megabytes
        self._seconds: dict[Path, float] = {}
        self._waveforms: OrderedDict[Path, Waveform] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    def seconds(self, path: Path) -> float:
        """Return the length of a recording, from its header the first time."""
        if path not in self._seconds:
            self._seconds[path] = audio_info(path).seconds
        return self._seconds[path]

    def read(self, path: Path) -> Waveform:
        """Return the recording, read-only, from the cache or from its file."""
        with self._lock:
            if path in self._waveforms:
                self._waveforms.move_to_end(path)
                return self._waveforms[path]
        waveform = load_audio(path, sample_rate=self._sample_rate)
        waveform.setflags(write=False)
        with self._lock:
            if path not in self._waveforms:
                self._waveforms[path] = waveform
                self._bytes += waveform.nbytes
            while self._bytes > self._megabytes * 1e6 and self._waveforms:
                self._bytes -= self._waveforms.popitem(last=False)[1].nbytes
        return waveform

    def __getstate__(self) -> dict[str, Any]:
        return {"sample_rate": self._sample_rate, "megabytes": self._megabytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


@dataclass(frozen=True)
class Augmenter:
    """Changes an utterance at random: speed, then room, then noise, then babble, then level.

    ``augmenter(speech, seed)`` depends on the settings, the speech and the seed alone. Every kind of change draws from its own
    random stream, so switching one off leaves the others as they were. Each probability is that of one change, independently of
    the others; a probability above zero without files to draw from is an error.

    Args:
        noise_files, noise_probability, noise_snr_db: additive noise at a ratio drawn evenly from a range in dB.
        babble_files, babble_probability, babble_voices, babble_snr_db: that many (from, to) other utterances together.
        room_files, room_probability: impulse responses.
        speed_probability, speed_factors: one of the factors; **this changes the length** to about ``samples / factor``.
        gain_probability, gain_db: a level change drawn evenly from a range in dB.
        sample_rate: of the speech, in Hz; files are resampled to it.
        cache_megabytes: how much of the files is kept in memory, per process.

    Raises:
        InputError: a setting has an unusable value.
    """

    noise_files: tuple[Path, ...] = ()
    noise_probability: float = 0.0
    noise_snr_db: tuple[float, float] = (0.0, 15.0)
    babble_files: tuple[Path, ...] = ()
    babble_probability: float = 0.0
    babble_voices: tuple[int, int] = (3, 7)
    babble_snr_db: tuple[float, float] = (13.0, 20.0)
    room_files: tuple[Path, ...] = ()
    room_probability: float = 0.0
    speed_probability: float = 0.0
    speed_factors: tuple[float, ...] = (0.9, 1.1)
    gain_probability: float = 0.0
    gain_db: tuple[float, float] = (-6.0, 6.0)
    sample_rate: int = SAMPLE_RATE
    cache_megabytes: float = 256.0
    _cache: WaveformCache = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("noise", "babble", "room", "speed", "gain"):
            probability = getattr(self, f"{name}_probability")
            if not 0.0 <= probability <= 1.0:
                raise InputError(f"{name}_probability is {probability}, expected 0 to 1")
            if probability > 0.0 and not getattr(self, f"{name}_files", (None,)):
                raise InputError(f"{name}_probability is {probability} but there are no {name}_files; give some, or set it to 0")
        for name in ("noise_snr_db", "babble_snr_db", "gain_db", "babble_voices"):
            low, high = getattr(self, name)
            if not (np.isfinite(low) and np.isfinite(high) and low <= high):
                raise InputError(f"{name} is ({low}, {high}), expected two finite numbers, the lower first")
        if self.babble_voices[0] < 1:
            raise InputError(f"babble_voices is {self.babble_voices}, expected at least one voice")
        if not self.speed_factors or any(not 0.5 <= factor <= 2.0 for factor in self.speed_factors):
            raise InputError(f"speed_factors is {self.speed_factors}, expected at least one factor, each from 0.5 to 2")
        for name in ("noise_files", "babble_files", "room_files"):
            object.__setattr__(self, name, tuple(Path(file) for file in getattr(self, name)))
        object.__setattr__(self, "_cache", WaveformCache(self.sample_rate, self.cache_megabytes))

    @classmethod
    def from_folders(
        cls,
        *,
        noise: str | os.PathLike[str] | None = None,
        babble: str | os.PathLike[str] | None = None,
        rooms: str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> Augmenter:
        """Make an augmenter of all recordings below each folder; ``settings`` are the other fields.

        Raises:
            DataError: a folder is missing or holds no recordings.
        """
        files: dict[str, Any] = {}
        for name, folder in (("noise_files", noise), ("babble_files", babble), ("room_files", rooms)):
            if folder is not None:
                files[name] = tuple(find_audio_files(folder))
                if not files[name]:
                    raise DataError(f"{folder}: no recordings in it; give a folder with audio files for {name}")
        return cls(**files, **settings)

    def settings(self) -> dict[str, Any]:
        """All that decides the result, as JSON values: for records of a run and for keys of caches."""
        names = [item.name for item in fields(self) if item.name not in ("_cache", "cache_megabytes")]
        return {name: _as_json(getattr(self, name)) for name in names}

    def __call__(self, speech: Waveform, seed: int) -> Waveform:
        """Return a changed copy of ``(samples,)``; scaled down to full scale if the changes made it exceed that.

        Digital silence is returned as it is.

        Raises:
            AudioLoadingError: a file of noise, voices or responses cannot be read.
        """
        if not speech.any():
            return speech.copy()
        streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(5)]
        changed = speech.astype(np.float32)
        rng = streams[0]
        if rng.random() < self.speed_probability:
            changed = change_speed(changed, self.speed_factors[int(rng.integers(len(self.speed_factors)))])
        rng = streams[1]
        if rng.random() < self.room_probability:
            changed = reverberate(changed, self._cache.read(_choose(self.room_files, rng)))
        rng = streams[2]
        if rng.random() < self.noise_probability:
            snr_db = rng.uniform(*self.noise_snr_db)
            changed = add_noise(changed, self._stretch(_choose(self.noise_files, rng), len(changed), rng), snr_db, rng)
        rng = streams[3]
        if rng.random() < self.babble_probability:
            snr_db, count = rng.uniform(*self.babble_snr_db), int(rng.integers(self.babble_voices[0], self.babble_voices[1] + 1))
            voices = [self._stretch(_choose(self.babble_files, rng), len(changed), rng) for _ in range(count)]
            changed = add_babble(changed, voices, snr_db, rng)
        rng = streams[4]
        if rng.random() < self.gain_probability:
            changed = change_gain(changed, rng.uniform(*self.gain_db))
        peak = float(np.max(np.abs(changed)))
        return changed / np.float32(peak) if peak > 1.0 else changed

    def _stretch(self, path: Path, samples: int, rng: np.random.Generator) -> Waveform:
        """At most ``samples`` of a recording from a random place, not silent; read without the rest if the file is long."""
        seconds = self._cache.seconds(path)
        needed = samples / self.sample_rate
        for _ in range(_DRAWS):
            if seconds > max(_LONG_FILE_SECONDS, needed):
                offset = rng.uniform(0.0, seconds - needed)
                part = load_audio(path, offset=offset, duration=needed, sample_rate=self.sample_rate, allow_silence=True)
            else:
                whole = self._cache.read(path)
                start = int(rng.integers(max(1, len(whole) - samples + 1)))
                part = whole[start : start + samples]
            if part.any():
                return part
        raise DataError(f"{path}: {_DRAWS} random parts of {needed:.2f} s were all silent; leave this file out")


def _choose(files: Sequence[Path], rng: np.random.Generator) -> Path:
    return files[int(rng.integers(len(files)))]


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_as_json(item) for item in value]
    return str(value) if isinstance(value, Path) else value

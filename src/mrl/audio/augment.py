"""Random, repeatable augmentation of training utterances: rooms, noise, voices, level, overload, bandwidth, codecs."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mrl.audio.changes import add_babble, add_noise, change_gain, clip, clipped_share, power, reverberate, reverberation_time
from mrl.audio.channel import CODECS, code_and_decode, find_encoder, g711, narrowband, telephone_band
from mrl.audio.decoded import Waveform
from mrl.audio.reading import SAMPLE_RATE, audio_info, load_audio
from mrl.audio.simulated_rooms import RoomSimulation, hash_of, simulate_rooms
from mrl.audio.sources import FileSlice, find_audio_files
from mrl.errors import DataError, InputError

# Recordings of noise, voices and rooms kept in memory, so that augmentation does not read them again for every crop.


AudioFile: TypeAlias = Path | FileSlice
"""A file of its own, or a recording inside a shard."""


class WaveformCache:
    """Recordings read lately, whole, up to a total size; safe to use from several threads, and empty after pickling."""

    def __init__(self, sample_rate: int, megabytes: float) -> None:
        self._sample_rate = sample_rate
        self._megabytes = megabytes
        self._seconds: dict[AudioFile, float] = {}
        self._waveforms: OrderedDict[AudioFile, Waveform] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes held now."""
        return self._bytes

    def seconds(self, path: AudioFile) -> float:
        """Return the length of a recording, from its header the first time."""
        if path not in self._seconds:
            self._seconds[path] = audio_info(path).seconds
        return self._seconds[path]

    def read(self, path: AudioFile) -> Waveform:
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


BANDS = {"narrowband": narrowband, "telephone": telephone_band}
"""Bands that ``Augmenter.bands`` chooses from: up to 4 kHz, and 300 to 3400 Hz."""


_LAWS = {"g711_mulaw": "mu", "g711_alaw": "a"}


AUGMENTATION_CODECS = (*_LAWS, *CODECS)
"""Codecs that ``Augmenter.codecs`` chooses from; the lossy ones have a range in ``codec_kilobits``."""


# Each kind has the random stream of its number for ever: a new kind takes the next one, and old results stay as they were.
_STREAMS = {
    "speed": 0,
    "room": 1,
    "noise": 2,
    "babble": 3,
    "gain": 4,
    "simulated_room": 5,
    "clipping": 6,
    "band": 7,
    "codec": 8,
}


# In the order in which sound meets them; before the line, the signal is brought down to full scale.
_AT_THE_MICROPHONE = ("room", "simulated_room", "noise", "babble", "gain", "clipping")


_ON_THE_LINE = ("band", "codec")


KINDS = ("speed", *_AT_THE_MICROPHONE, *_ON_THE_LINE)
"""Kinds of change in the order in which they are made."""


_LONG_FILE_SECONDS = 60.0  # longer noises are read in parts, shorter ones kept whole


_DRAWS = 20  # parts of a file to try before it is called silent


@dataclass(frozen=True)
class Change:
    """One change that was made to an utterance.

    Attributes:
        kind: one of :data:`KINDS`.
        drawn: what was drawn for it, such as ``{"snr_db": 7.3, "file": Path("rain.wav")}``.
        before, after: the waveform ``(samples,)`` on both sides of the change.
        response: of a room, its impulse response ``(response_samples,)``.
    """

    kind: str
    drawn: Mapping[str, Any]
    before: Waveform
    after: Waveform
    response: Waveform | None = None


@dataclass(frozen=True)
class Augmenter:
    """Changes an utterance at random: room, noise, babble, level, clipping, then band and codec of a line.

    ``augmenter(speech, seed)`` depends on the settings, the speech and the seed alone, and keeps the length. Every kind of change
    draws from its own random stream, so switching one off leaves the others as they were. Each probability is that of one change,
    independently of the others (but for the simulated room); a probability above zero without what it needs is an error.

    The speed is drawn by :meth:`draw_speed` and changed where the crop is cut (:func:`mrl.audio.change_speed`), so that a crop
    of any speed has its full length.

    Args:
        noise_files, noise_probability, noise_snr_db: additive noise at a ratio drawn evenly from a range in dB.
        babble_files, babble_probability, babble_voices, babble_snr_db: that many (from, to) other utterances together.
        room_files, room_probability: measured impulse responses.
        simulated_room_probability, simulated_rooms: a room of a pool that is simulated at the start; a share of the crops that
            got no measured room. Needs the extra ``rooms``.
        speed_probability, speed_factors: one of the factors.
        gain_probability, gain_db: a level change drawn evenly from a range in dB.
        clipping_probability, clipping_level: what exceeds a share of the peak, drawn evenly from a range, is cut off.
        band_probability, bands: one of :data:`BANDS`.
        codec_probability, codecs, codec_kilobits: one of :data:`AUGMENTATION_CODECS`, and for the lossy ones the range of the bit
            rate in kbit/s, drawn evenly.
        sample_rate: of the speech, in Hz; files are resampled to it.
        cache_megabytes: how much of the files is kept in memory, per process.

    Raises:
        InputError: a setting has an unusable value.
        MissingDependencyError: rooms or codecs are asked for that this installation lacks.
    """

    noise_files: tuple[AudioFile, ...] = ()
    noise_probability: float = 0.0
    noise_snr_db: tuple[float, float] = (0.0, 15.0)
    babble_files: tuple[AudioFile, ...] = ()
    babble_probability: float = 0.0
    babble_voices: tuple[int, int] = (3, 7)
    babble_snr_db: tuple[float, float] = (13.0, 20.0)
    room_files: tuple[AudioFile, ...] = ()
    room_probability: float = 0.0
    simulated_room_probability: float = 0.0
    simulated_rooms: RoomSimulation = RoomSimulation()  # noqa: RUF009 - frozen
    speed_probability: float = 0.0
    speed_factors: tuple[float, ...] = (0.9, 1.1)
    gain_probability: float = 0.0
    gain_db: tuple[float, float] = (-6.0, 6.0)
    clipping_probability: float = 0.0
    clipping_level: tuple[float, float] = (0.2, 0.8)
    band_probability: float = 0.0
    bands: tuple[str, ...] = tuple(BANDS)
    codec_probability: float = 0.0
    codecs: tuple[str, ...] = ("g711_mulaw", "g711_alaw", "opus", "aac")
    codec_kilobits: Mapping[str, tuple[float, float]] = field(
        default_factory=lambda: {"opus": (8.0, 32.0), "aac": (16.0, 64.0), "mp3": (16.0, 64.0)}
    )
    sample_rate: int = SAMPLE_RATE
    cache_megabytes: float = 256.0
    _cache: WaveformCache = field(init=False, repr=False, compare=False)
    _responses: tuple[Waveform, ...] = field(init=False, repr=False, compare=False, default=())

    def __post_init__(self) -> None:
        for kind in KINDS:
            probability = self._probability(kind)
            if not 0.0 <= probability <= 1.0:
                raise InputError(f"{kind}_probability is {probability}, expected 0 to 1")
            if probability > 0.0 and not getattr(self, f"{kind}_files", (None,)):
                raise InputError(f"{kind}_probability is {probability} but there are no {kind}_files; give some, or set it to 0")
        for name in ("noise_snr_db", "babble_snr_db", "gain_db", "babble_voices", "clipping_level"):
            low, high = getattr(self, name)
            if not (np.isfinite(low) and np.isfinite(high) and low <= high):
                raise InputError(f"{name} is ({low}, {high}), expected two finite numbers, the lower first")
        if self.babble_voices[0] < 1:
            raise InputError(f"babble_voices is {self.babble_voices}, expected at least one voice")
        if not 0.0 < self.clipping_level[0] <= self.clipping_level[1] <= 1.0:
            raise InputError(f"clipping_level is {self.clipping_level}, expected shares of the peak above 0 and up to 1")
        if not self.speed_factors or any(not 0.5 <= factor <= 2.0 for factor in self.speed_factors):
            raise InputError(f"speed_factors is {self.speed_factors}, expected at least one factor, each from 0.5 to 2")
        _check_names("bands", self.bands, tuple(BANDS))
        self._check_codecs()
        for name in ("noise_files", "babble_files", "room_files"):
            files = tuple(file if isinstance(file, FileSlice) else Path(file) for file in getattr(self, name))
            object.__setattr__(self, name, files)
        object.__setattr__(self, "_cache", WaveformCache(self.sample_rate, self.cache_megabytes))
        if self.simulated_room_probability > 0.0:
            object.__setattr__(self, "_responses", simulate_rooms(self.simulated_rooms, self.sample_rate))

    def _check_codecs(self) -> None:
        _check_names("codecs", self.codecs, AUGMENTATION_CODECS)
        _check_names("codec_kilobits", tuple(self.codec_kilobits), CODECS, may_be_empty=True)
        for codec, (low, high) in self.codec_kilobits.items():
            if not 4.0 <= low <= high <= 512.0:
                raise InputError(f"codec_kilobits of {codec} is ({low}, {high}), expected the lower first, within 4 to 512")
        for codec in self.codecs:
            if codec in CODECS and codec not in self.codec_kilobits:
                raise InputError(f"codecs has {codec} but codec_kilobits has no range for it; give one in kbit/s")
            if codec in CODECS and self.codec_probability > 0.0:
                find_encoder(codec)

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

    @property
    def active_kinds(self) -> tuple[str, ...]:
        """The kinds with a probability above zero, in the order in which they are made."""
        return tuple(kind for kind in KINDS if self._probability(kind) > 0.0)

    def settings(self) -> dict[str, Any]:
        """All that decides the result, as JSON values: for records of a run and for keys of caches.

        Kinds that are switched off are left out. Files count by path, size and time of change, simulated rooms by their samples.

        Raises:
            DataError: a file has gone.
        """
        with_plurals = ("simulated_room", "band", "codec")  # such as bands beside band_probability
        prefixes = tuple(kind if kind in with_plurals else f"{kind}_" for kind in self.active_kinds)
        names = [item.name for item in fields(self) if item.name.startswith(prefixes)]
        described = {name: _as_json(getattr(self, name)) for name in names} | {"sample_rate": self.sample_rate}
        files = [path for name in names if name.endswith("_files") for path in getattr(self, name)]
        if files:
            described["files_sha256"] = _hash_of_files(files)
        if self._responses:
            described["responses_sha256"] = hash_of(self._responses)
        return described

    def draw_speed(self, rng: np.random.Generator) -> float:
        """Return the speed at which a crop is to be taken: one of the factors, or 1."""
        if rng.random() < self.speed_probability:
            return self.speed_factors[int(rng.integers(len(self.speed_factors)))]
        return 1.0

    def __call__(self, speech: Waveform, seed: int) -> Waveform:
        """Return a changed copy of ``(samples,)``; scaled down to full scale if the changes made it exceed that.

        Digital silence is returned as it is.

        Raises:
            AudioLoadingError: a file of noise, voices or responses cannot be read.
        """
        return self.trace(speech, seed)[0]

    def trace(self, speech: Waveform, seed: int) -> tuple[Waveform, list[Change]]:
        """Return what a call returns, and the changes that led to it.

        Raises:
            AudioLoadingError: a file of noise, voices or responses cannot be read.
        """
        if not speech.any():
            return speech.copy(), []
        streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(len(_STREAMS))]
        changed = speech.astype(np.float32)
        changes: list[Change] = []
        for kinds in (_AT_THE_MICROPHONE, _ON_THE_LINE):
            for kind in kinds:
                rng = streams[_STREAMS[kind]]
                if rng.random() >= self._probability(kind):
                    continue
                if kind == "simulated_room" and any(change.kind == "room" for change in changes):
                    continue  # nobody speaks in two rooms at once
                change: Change = getattr(self, f"_{kind}")(changed, rng)
                changes.append(change)
                changed = change.after
            changed = _within_full_scale(changed)
        return changed, changes

    def _probability(self, kind: str) -> float:
        probability: float = getattr(self, f"{kind}_probability")
        return probability

    def _room(self, speech: Waveform, rng: np.random.Generator) -> Change:
        file = _choose(self.room_files, rng)
        response = self._cache.read(file)
        return Change("room", {"file": file}, speech, reverberate(speech, response), response)

    def _simulated_room(self, speech: Waveform, rng: np.random.Generator) -> Change:
        number = int(rng.integers(len(self._responses)))
        response = self._responses[number]
        return Change("simulated_room", {"room": number}, speech, reverberate(speech, response), response)

    def _noise(self, speech: Waveform, rng: np.random.Generator) -> Change:
        snr_db = rng.uniform(*self.noise_snr_db)
        file = _choose(self.noise_files, rng)
        changed = add_noise(speech, self._stretch(file, len(speech), rng), snr_db, rng)
        return Change("noise", {"snr_db": snr_db, "file": file}, speech, changed)

    def _babble(self, speech: Waveform, rng: np.random.Generator) -> Change:
        snr_db, count = rng.uniform(*self.babble_snr_db), int(rng.integers(self.babble_voices[0], self.babble_voices[1] + 1))
        voices = [self._stretch(_choose(self.babble_files, rng), len(speech), rng) for _ in range(count)]
        return Change("babble", {"snr_db": snr_db, "voices": count}, speech, add_babble(speech, voices, snr_db, rng))

    def _gain(self, speech: Waveform, rng: np.random.Generator) -> Change:
        gain_db = rng.uniform(*self.gain_db)
        return Change("gain", {"gain_db": gain_db}, speech, change_gain(speech, gain_db))

    def _clipping(self, speech: Waveform, rng: np.random.Generator) -> Change:
        level = rng.uniform(*self.clipping_level)
        return Change("clipping", {"level": level}, speech, clip(speech, level))

    def _band(self, speech: Waveform, rng: np.random.Generator) -> Change:
        band = self.bands[int(rng.integers(len(self.bands)))]
        return Change("band", {"band": band}, speech, BANDS[band](speech, self.sample_rate))

    def _codec(self, speech: Waveform, rng: np.random.Generator) -> Change:
        codec = self.codecs[int(rng.integers(len(self.codecs)))]
        if codec in _LAWS:
            return Change("codec", {"codec": codec}, speech, g711(speech, self.sample_rate, law=_LAWS[codec]))
        kilobits = rng.uniform(*self.codec_kilobits[codec])
        changed = code_and_decode(speech, codec, kilobits=kilobits, sample_rate=self.sample_rate)
        return Change("codec", {"codec": codec, "kilobits": kilobits}, speech, changed)

    def _stretch(self, path: AudioFile, samples: int, rng: np.random.Generator) -> Waveform:
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


def _within_full_scale(samples: Waveform) -> Waveform:
    peak = float(np.max(np.abs(samples)))
    return samples / np.float32(peak) if peak > 1.0 else samples


def _choose(files: Sequence[AudioFile], rng: np.random.Generator) -> AudioFile:
    return files[int(rng.integers(len(files)))]


def _check_names(setting: str, found: Sequence[str], known: Sequence[str], *, may_be_empty: bool = False) -> None:
    if not found and not may_be_empty:
        raise InputError(f"{setting} is empty, expected some of {', '.join(known)}")
    for name in found:
        if name not in known:
            raise InputError(f"{setting} has {name!r}, expected some of {', '.join(known)}")


def _hash_of_files(files: Sequence[AudioFile]) -> str:
    """SHA-256 over names, sizes and times of change."""
    digest = hashlib.sha256()
    states: dict[Path, tuple[int, int]] = {}
    for file in files:
        path = file.path if isinstance(file, FileSlice) else file
        if path not in states:
            try:
                status = path.stat()
            except OSError as error:
                raise DataError(f"{path}: {error.strerror}; put it back or leave it out of the augmentation") from error
            states[path] = (status.st_size, status.st_mtime_ns)
        digest.update(repr((str(file), *states[path])).encode() + b"\n")
    return digest.hexdigest()


def _as_json(value: Any) -> Any:
    if isinstance(value, RoomSimulation):
        return {name: _as_json(item) for name, item in dataclasses.asdict(value).items()}
    if isinstance(value, Mapping):
        return {name: _as_json(item) for name, item in sorted(value.items())}
    if isinstance(value, tuple):
        return [_as_json(item) for item in value]
    return str(value) if isinstance(value, Path | FileSlice) else value


# What a change did to an utterance, measured and put in words.


_FLOOR = 1e-12


_WORDS = {
    "snr_db": "asked for {:.2f} dB",
    "gain_db": "asked for {:+.2f} dB",
    "level": "at {:.2f} of the peak",
    "kilobits": "{:.1f} kbit/s",
    "voices": "{} voices",
    "room": "number {}",
}


def ratio_db(signal: Waveform, error: Waveform) -> float:
    """Power of ``signal`` over that of ``error``, both ``(samples,)``, in dB; at most 120."""
    return 10.0 * float(np.log10(max(power(signal), _FLOOR) / max(power(error), _FLOOR * power(signal), _FLOOR**2)))


def share_above_db(samples: Waveform, hertz: float, sample_rate: int = SAMPLE_RATE) -> float:
    """Energy of ``(samples,)`` above a frequency over all of its energy, in dB; at least -120."""
    energies = np.square(np.abs(np.fft.rfft(samples * np.hanning(len(samples)))))
    above = energies[np.fft.rfftfreq(len(samples), 1.0 / sample_rate) > hertz].sum()
    return 10.0 * float(np.log10(max(above / max(energies.sum(), _FLOOR), _FLOOR)))


def log_spectral_correlation(one: Waveform, other: Waveform, sample_rate: int = SAMPLE_RATE) -> float:
    """How well the rise and fall of ``other`` follows that of ``one`` between 300 and 3400 Hz, both ``(samples,)``.

    The correlation of log energies in frames of 25 ms and bands of 80 Hz, each band without its mean over time, so that a filter
    alone changes nothing: 1 for the same speech, about 0 for other speech. Frames more than 40 dB below the loudest are left out.

    Raises:
        InputError: the lengths differ, or are below two frames.
    """
    frame = sample_rate // 40
    if len(one) != len(other) or len(one) < 2 * frame:
        raise InputError(f"{len(one)} and {len(other)} samples cannot be compared, expected equal lengths of two frames or more")
    first, second = (_band_energies(samples, frame, sample_rate) for samples in (one, other))
    loud = first.sum(axis=1) > 1e-4 * first.sum(axis=1).max()
    pair = [np.log(energies[loud] + 1e-6 * max(float(energies.max()), _FLOOR)) for energies in (first, second)]
    followed = [(levels - levels.mean(axis=0)).ravel() for levels in pair]
    strength = float(np.sqrt(np.dot(followed[0], followed[0]) * np.dot(followed[1], followed[1])))
    return float(np.dot(*followed)) / max(strength, _FLOOR)


def _band_energies(samples: Waveform, frame: int, sample_rate: int) -> npt.NDArray[np.float64]:
    """Energies ``(frames, bands)`` of two neighbouring bins of the spectrum each, from 300 to 3400 Hz."""
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), frame)[:: frame // 2]
    energies = np.square(np.abs(np.fft.rfft(frames * np.hanning(frame), axis=1)))
    first, last = (round(hertz * frame / sample_rate) for hertz in (300, 3400))
    inside = energies[:, first : first + (last - first) // 2 * 2]
    summed: npt.NDArray[np.float64] = inside.reshape(len(inside), -1, 2).sum(axis=2)
    return summed


def measure(change: Change, sample_rate: int = SAMPLE_RATE) -> str:
    """Return one line: the kind, what was drawn for it, and what was obtained."""
    before, after = change.before, change.after
    drawn = ", ".join(_in_words(name, value) for name, value in change.drawn.items())
    kind = change.kind.replace("_", " ")
    if change.kind in ("noise", "babble"):
        return f"{kind}: {drawn}; measured {ratio_db(before, after - before):.2f} dB"
    if change.kind == "gain":
        return f"{kind}: {drawn}; measured {ratio_db(after, before):+.2f} dB"
    if change.response is not None:
        return f"{kind}: {drawn}; {_room_in_words(change.response, sample_rate)}"
    if change.kind == "clipping":
        return (
            f"{kind}: {drawn}; {100 * clipped_share(after):.2f} % of the samples clipped, "
            f"signal to distortion {ratio_db(before, after - before):.1f} dB"
        )
    return (
        f"{kind}: {drawn}; {share_above_db(after, 4000.0, sample_rate):.0f} dB of the energy above 4 kHz "
        f"(before: {share_above_db(before, 4000.0, sample_rate):.0f}), "
        f"log-spectral correlation {log_spectral_correlation(before, after, sample_rate):.3f}"
    )


def _room_in_words(response: Waveform, sample_rate: int) -> str:
    try:
        return f"RT60 {reverberation_time(response, sample_rate):.2f} s"
    except InputError:
        return "RT60 unknown, the response falls by less than 35 dB"


def _in_words(name: str, value: object) -> str:
    return _WORDS.get(name, "{}").format(value.name if isinstance(value, Path) else value)

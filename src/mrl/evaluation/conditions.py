"""Harder listening conditions for the test side of a trial list: shorter, noisier, or sent through a telephone or codec."""

from __future__ import annotations

import hashlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.audio import SAMPLE_RATE, add_noise, find_audio_files
from mrl.audio.augment import WaveformCache
from mrl.audio.channel import CODECS, a_law, code_and_decode, mu_law, narrowband, telephone
from mrl.errors import DataError, InputError

Waveform = npt.NDArray[np.float32]

_CHANNELS: dict[str, Callable[[Waveform], Waveform]] = {
    "telephone": telephone,
    "narrowband": narrowband,
    "mulaw": mu_law,
    "alaw": a_law,
}
CHANNELS = (*_CHANNELS, *CODECS)
"""Names of the channels that :func:`make_conditions` knows; a lossy codec may be followed by ``:KILOBITS``."""


class Condition(ABC):
    """What is done to every test recording.

    Attributes:
        group: the kind of condition, for tables: "length of the test side", "noise on the test side", "channel of the test side".
        name: this condition within its group, such as "2 s".
    """

    group: str
    name: str

    @abstractmethod
    def apply(self, utterance: str, waveform: Waveform) -> Waveform:
        """Return the changed waveform (samples,); it depends on the settings, the utterance's name and the waveform alone."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that decides the result, as JSON values: for records and for the keys of caches."""


@dataclass(frozen=True)
class Shortened(Condition):
    """The middle of the recording, ``seconds`` long; a shorter recording is used whole."""

    seconds: float
    group: str = field(default="length of the test side", init=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and self.seconds > 0):
            raise InputError(f"a cut of {self.seconds} s cannot be used; expected seconds above 0")

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.seconds:g} s"

    def apply(self, utterance: str, waveform: Waveform) -> Waveform:
        length = max(1, round(self.seconds * SAMPLE_RATE))
        start = max(0, (len(waveform) - length) // 2)
        return waveform[start : start + length]

    def settings(self) -> dict[str, Any]:
        return {"cut_seconds": self.seconds, "from": "middle"}


@dataclass(frozen=True)
class Noise(Condition):
    """Noise from a folder, added at ``snr_db`` dB.

    Which noise, and which part of it, depends on the utterance's name and the seed but not on the ratio, so that the ratios of
    one evaluation differ in nothing else.
    """

    snr_db: float
    files: tuple[Path, ...]
    seed: int
    waveforms: WaveformCache = field(repr=False, compare=False)
    group: str = field(default="noise on the test side", init=False)

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"SNR {self.snr_db:g} dB"

    def apply(self, utterance: str, waveform: Waveform) -> Waveform:
        digest = hashlib.sha256(f"{self.seed} {utterance}".encode()).digest()
        rng = np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))
        noise = self.waveforms.read(self.files[int(rng.integers(len(self.files)))])
        return add_noise(waveform, noise, self.snr_db, rng)

    def settings(self) -> dict[str, Any]:
        states = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in self.files]
        return {"snr_db": self.snr_db, "seed": self.seed, "files": hashlib.sha256(repr(states).encode()).hexdigest()}


@dataclass(frozen=True)
class Channel(Condition):
    """A telephone line, a codec, or a part of one."""

    channel: str
    kilobits: float | None = None
    group: str = field(default="channel of the test side", init=False)

    def __post_init__(self) -> None:
        if self.channel not in CHANNELS:
            raise InputError(f"channel {self.channel!r} is unknown; expected one of {', '.join(CHANNELS)}")
        if self.kilobits is not None and self.channel not in CODECS:
            raise InputError(f"{self.channel} has no bit rate to choose; only {', '.join(CODECS)} have")

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.channel if self.kilobits is None else f"{self.channel} {self.kilobits:g} kbit/s"

    def apply(self, utterance: str, waveform: Waveform) -> Waveform:
        if self.channel in _CHANNELS:
            return _CHANNELS[self.channel](waveform)
        return code_and_decode(waveform, self.channel, kilobits=self.kilobits)

    def settings(self) -> dict[str, Any]:
        return {"channel": self.channel, "kilobits": self.kilobits}


def make_conditions(
    *,
    cut_seconds: Sequence[float] = (),
    noise: str | os.PathLike[str] | None = None,
    snr_db: Sequence[float] = (),
    channels: Sequence[str] = (),
    seed: int = 0,
) -> tuple[Condition, ...]:
    """Return the conditions that a user names, each once.

    Args:
        cut_seconds: lengths in seconds.
        noise: folder of noise recordings; goes with ``snr_db``.
        snr_db: signal-to-noise ratios in dB.
        channels: names from :data:`CHANNELS`, such as ``telephone``, ``opus`` or ``opus:12`` (kbit/s).
        seed: of the choice of noise.

    Raises:
        InputError: a value that cannot be used, or one of ``noise`` and ``snr_db`` without the other.
        DataError: the noise folder is missing or empty.
    """
    if (noise is None) != (not snr_db):
        raise InputError("noise needs both a folder (--noise) and ratios in dB (--snr); found only one of them")
    conditions: list[Condition] = [Shortened(seconds) for seconds in dict.fromkeys(cut_seconds)]
    if noise is not None:
        files = tuple(find_audio_files(noise))
        if not files:
            raise DataError(f"{noise}: no recordings in it; give a folder with noise")
        waveforms = WaveformCache(SAMPLE_RATE, megabytes=256.0)
        conditions += [Noise(ratio, files, seed, waveforms) for ratio in dict.fromkeys(snr_db)]
    return (*conditions, *(_channel(name) for name in dict.fromkeys(channels)))


def _channel(text: str) -> Channel:
    name, _, kilobits = text.partition(":")
    try:
        return Channel(name, float(kilobits) if kilobits else None)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"channel {text!r}: {kilobits!r} is no bit rate in kbit/s") from None

"""Facts about a recording: whether it is readable, its length, level and clipping, and a hash of its decoded samples.

Nothing here needs torch, so that processes that examine a large corpus start quickly and stay small.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mrl.audio.decoded import AudioInfo
from mrl.audio.reading import audio_info, load_audio
from mrl.bounded import reason_of
from mrl.errors import AudioLoadingError

FULL_SCALE = 0.999
"""Samples of this magnitude or more count as clipped."""

_CHUNK_SECONDS = 60.0  # decoded at a time, so that an hour of audio does not fill the memory
_TOLERANCE_SECONDS = 0.1  # a stretch may end so much after the recording: manifests round


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a recording: from ``start`` (seconds), ``seconds`` long; None means to its end."""

    path: Path
    start: float = 0.0
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class StretchFacts:
    """What was found.

    Attributes:
        size, changed: of the file, bytes and nanoseconds since 1970; 0 if it cannot even be asked for.
        error: why the stretch cannot be used, in one line; None: it can. All below is then 0 or None.
        seconds: length of the stretch.
        sample_rate, channels: of the file.
        peak: largest magnitude of a sample, full scale being 1; None where nothing was decoded.
        clipped_share: share of samples at full scale (:data:`FULL_SCALE`), 0 to 1; None where nothing was decoded.
        content: hash of the decoded samples, the same for a WAV file and its FLAC copy; None where nothing was decoded.
    """

    size: int = 0
    changed: int = 0
    error: str | None = None
    seconds: float = 0.0
    sample_rate: int = 0
    channels: int = 0
    peak: float | None = None
    clipped_share: float | None = None
    content: str | None = None


def examine(stretch: Stretch, *, decode: bool = True) -> StretchFacts:
    """Examine a stretch: the header first, then every sample, a minute at a time.

    Args:
        stretch: what to examine.
        decode: false: the header only.
    """
    try:
        status = stretch.path.stat()
    except (OSError, ValueError) as error:
        reason = (
            "there is no such file" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", None) or str(error)
        )
        return StretchFacts(error=reason)
    size, changed = status.st_size, status.st_mtime_ns
    try:
        info = audio_info(stretch.path)
        seconds = _length(stretch, info)
        if not decode:
            return StretchFacts(size, changed, None, seconds, info.sample_rate, info.channels)
        peak, clipped_share, content = _listen(stretch, seconds, info.sample_rate)
    except Exception as error:  # whatever one recording does, the others of a corpus are to be examined
        return StretchFacts(size, changed, reason_of(error).removeprefix(f"{stretch.path}: "))
    return StretchFacts(size, changed, None, seconds, info.sample_rate, info.channels, peak, clipped_share, content)


def examine_all(stretches: Iterable[Stretch], decode: bool = True) -> list[StretchFacts]:
    """Examine several: the unit of work of a process."""
    return [examine(stretch, decode=decode) for stretch in stretches]


def is_same_file(facts: StretchFacts, path: str | os.PathLike[str]) -> bool:
    """Whether the file has kept size and time of change since it was examined."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return False
    return facts.changed != 0 and (status.st_size, status.st_mtime_ns) == (facts.size, facts.changed)


def _length(stretch: Stretch, info: AudioInfo) -> float:
    rest = info.seconds - stretch.start
    if rest <= 0 or (stretch.seconds is not None and stretch.seconds > rest + _TOLERANCE_SECONDS):
        end = stretch.start + (stretch.seconds or 0.0)
        raise AudioLoadingError(
            f"the stretch from {stretch.start:g} s to {end:g} s is past the end, the recording has {info.seconds:.2f} s"
        )
    return rest if stretch.seconds is None else min(rest, stretch.seconds)


def _listen(stretch: Stretch, seconds: float, rate: int) -> tuple[float, float, str]:
    """Return the peak, the share of samples at full scale, and the hash of the samples."""
    digest = hashlib.blake2b(f"{rate} Hz".encode(), digest_size=16)
    peak, clipped, samples = 0.0, 0, 0
    # The last chunk is the longest, up to two: a chunk of its own for a few samples might lie past the end that is really there.
    chunks = max(1, int(seconds / _CHUNK_SECONDS))
    for number in range(chunks):
        duration: float | None = _CHUNK_SECONDS
        if number == chunks - 1:
            duration = None if stretch.seconds is None else seconds - number * _CHUNK_SECONDS
        audio = load_audio(
            stretch.path,
            offset=stretch.start + number * _CHUNK_SECONDS,
            duration=duration,
            sample_rate=rate,
            allow_silence=True,
        )
        magnitude = np.abs(audio)
        peak = max(peak, float(magnitude.max()))
        clipped += int(np.count_nonzero(magnitude >= FULL_SCALE))
        samples += len(audio)
        digest.update(audio.tobytes())
    return peak, clipped / samples, digest.hexdigest()

"""One rule for audio in memory: samples of any type, rate and channel count to (samples,) float32, mono, in [-1, 1].

- Encoded bytes, a file object and ``-`` or ``/dev/stdin`` are decoded like a file.
- Integers are PCM and are scaled: int8, int16 and int32 by their full scale, uint8 as unsigned with its middle at 128. Floats are
  taken as they are; beyond 16 times full scale they are refused, because integers were then converted without scaling.
- An array of two dimensions is one recording with channels, which are averaged: the shorter dimension counts the channels.
- An array has the rate that is stated, by default that of the networks; a warning is logged where it sounds like another one.
- Silence (all zeros) and samples that are not finite are refused, as they are of a file.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mrl.audio.decoded import LIMITS, Unreadable, Waveform, resample
from mrl.audio.reading import FULL_SCALE_TOLERANCE, SAMPLE_RATE, load_audio
from mrl.audio.sources import AudioSource, FileSlice
from mrl.errors import AudioLoadingError, InputError

logger = logging.getLogger(__name__)

InMemory: TypeAlias = Any
"""An array of samples, of NumPy or of any package whose arrays NumPy can read (torch), or a file object of encoded audio."""

_STANDARD_INPUT = ("-", "/dev/stdin")
_MOST_BYTES = 1 << 31
_SIGNED = {np.dtype(np.int8): 2.0**7, np.dtype(np.int16): 2.0**15, np.dtype(np.int32): 2.0**31}
_LOWEST_VOICE_HZ, _DULLEST_HZ = 98.0, 340.0  # voice and centre of the spectrum: below both, speech sounds slowed down
_CHECKED_SECONDS = 10.0


def as_waveform(
    audio: AudioSource | InMemory, sample_rate: int | None = None, *, target_rate: int = SAMPLE_RATE, what: str = "audio"
) -> Waveform:
    """Return one recording as a waveform (samples,) float32 at ``target_rate``, see :mod:`mrl.audio.memory`.

    Args:
        audio: a path, encoded bytes, ``-`` for standard input, a file object open for reading bytes, or an array of samples.
        sample_rate: of an array, in Hz; by default ``target_rate``.
        target_rate: of the result, in Hz.
        what: what messages call an array.

    Raises:
        AudioLoadingError: it cannot be decoded, or is silent.
        InputError: an array of another type or shape, silent, or whose samples are not finite or not scaled; or a rate for
            something that states its own.
    """
    if not hasattr(audio, "__array__"):
        if sample_rate is not None:
            raise InputError("sample_rate is for an array of samples; a file states its own")
        return load_audio(encoded(audio, what), sample_rate=target_rate)
    rate = target_rate if sample_rate is None else sample_rate
    try:
        LIMITS.check_kind(rate, 1)
    except Unreadable as error:
        raise InputError(f"sample_rate: {error.reason}") from error
    samples = _one_channel(samples_of(audio, what), what)
    check_samples(samples, what)
    if sample_rate is None:
        warn_of_other_rate(samples, rate)
    return resample(samples, rate, target_rate)


def as_recordings(audio: Any, sample_rate: int | None = None, *, target_rate: int = SAMPLE_RATE, padded: bool = False) -> Any:
    """Return what a network was given with every recording in it as a waveform at ``target_rate``, see :func:`as_waveform`.

    Tensors stay as they are, unless their rate is stated and another one: training passes them, and must not wait for a look at
    their values.

    Args:
        audio: a recording, a list of recordings, or a batch of waveforms (batch, samples) or (batch, 1, samples).
        sample_rate: of arrays, in Hz; by default ``target_rate``.
        target_rate: of the network, in Hz.
        padded: it is a batch whose lengths come with it, and is returned as it is.

    Raises:
        AudioLoadingError, InputError: as for :func:`as_waveform`; or a padded batch of another rate.
    """
    if padded:
        if sample_rate not in (None, target_rate):
            raise InputError(
                f"a padded batch (lengths=) has the network's rate, {target_rate} Hz; found sample_rate={sample_rate}"
            )
        return audio
    if isinstance(audio, (list, tuple)):
        return [_item(item, sample_rate, target_rate, f"item {place} of the list") for place, item in enumerate(audio)]
    if getattr(audio, "ndim", 1) < 2 or _is_tensor_at(audio, sample_rate, target_rate) or not len(audio):
        return _item(audio, sample_rate, target_rate, "audio")
    batch = samples_of(audio)
    warn_of_channels(batch)
    rows = [as_waveform(row, sample_rate, target_rate=target_rate) for row in batch.reshape(-1, batch.shape[-1])]
    return np.stack(rows).reshape(*batch.shape[:-1], -1)


def _item(audio: Any, sample_rate: int | None, target_rate: int, what: str) -> Any:
    if _is_tensor_at(audio, sample_rate, target_rate):
        return audio
    return as_waveform(audio, sample_rate, target_rate=target_rate, what=what)


def _is_tensor_at(audio: Any, sample_rate: int | None, target_rate: int) -> bool:
    return hasattr(audio, "detach") and sample_rate in (None, target_rate)


def encoded(audio: Any, what: str = "audio") -> AudioSource:
    """Return what :func:`load_audio` reads: a file object and standard input are read into memory.

    Raises:
        InputError: it is neither a path nor bytes nor a file object.
        AudioLoadingError: more than 2 GiB, or text instead of bytes.
    """
    if isinstance(audio, (bytearray, memoryview)):
        return bytes(audio)
    if isinstance(audio, (str, os.PathLike)) and os.fspath(audio) in _STANDARD_INPUT:
        audio = sys.stdin.buffer
    if hasattr(audio, "read") and not isinstance(audio, FileSlice):
        data = audio.read(_MOST_BYTES + 1)
        name = getattr(audio, "name", "file object")
        if not isinstance(data, bytes):
            raise AudioLoadingError(f"{name} gives {type(data).__name__} instead of bytes; open it in binary mode")
        if len(data) > _MOST_BYTES:
            raise AudioLoadingError(f"{name} has more than {_MOST_BYTES:,} bytes; write it to a file and give its path")
        return data
    if not isinstance(audio, (str, os.PathLike, bytes, FileSlice)):
        raise InputError(f"{what} is a {type(audio).__name__}; expected a path, bytes, a file object or an array of samples")
    return audio


def samples_of(audio: Any, what: str = "audio") -> npt.NDArray[np.float32]:
    """Return an array's samples as float32, integers scaled to [-1, 1]; its shape is kept.

    Raises:
        InputError: samples of another type.
    """
    array = np.asarray(audio.detach().cpu() if hasattr(audio, "detach") else audio)
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - np.float32(128)) / np.float32(128)
    scale = _SIGNED.get(array.dtype)
    if scale is None and array.dtype.kind != "f":
        raise InputError(f"{what} is an array of {array.dtype}; expected float, or 8-, 16- or 32-bit PCM integers")
    floats = np.ascontiguousarray(array, dtype=np.float32)
    return floats if scale is None else floats / np.float32(scale)


def check_samples(samples: Waveform, what: str = "audio") -> None:
    """Refuse what is refused of a file.

    Raises:
        InputError: silence, or samples that are not finite or not scaled.
    """
    peak = float(np.max(np.abs(samples))) if samples.size else 0.0
    if not np.isfinite(peak):
        raise InputError(f"{what} contains NaN or infinite samples; repair or drop this recording")
    if peak > FULL_SCALE_TOLERANCE:
        raise InputError(f"{what}: samples reach {peak:g}, full scale is 1; divide by the largest integer (32768 for 16 bit)")
    if samples.size and peak == 0.0:  # of no samples at all, the network says how many it needs
        raise InputError(f"{what}: digital silence: every sample is zero; leave it out")


def warn_of_other_rate(samples: Waveform, rate: int) -> None:
    """Log a warning if speech sounds as if it were slowed down, such as 44.1 kHz taken for 16 kHz."""
    size = 1024
    used = samples[: min(len(samples), round(_CHECKED_SECONDS * rate)) // size * size].reshape(-1, size)
    if not len(used):
        return
    power = np.einsum("nf,nf->n", used, used)
    loud = used[power >= np.sort(power)[int(0.7 * (len(power) - 1))]]
    spectra = np.abs(np.fft.rfft(loud * np.hanning(size), 2 * size)) ** 2
    centre = float((spectra.sum(0) * np.linspace(0, rate / 2, size + 1)).sum() / max(float(spectra.sum()), 1e-20))
    correlation = np.fft.irfft(spectra)[:, :size]
    correlation = correlation / np.maximum(correlation[:, :1], 1e-20) / (1 - np.arange(size) / size)
    shortest, longest = rate // 450, min(size // 2, rate // 40)
    lags = shortest + np.argmax(correlation[:, shortest:longest], axis=1)
    voiced = lags[correlation[np.arange(len(lags)), lags] > 0.4]
    voice = rate / float(np.median(voiced)) if len(voiced) else np.inf
    if centre < _DULLEST_HZ and voice < _LOWEST_VOICE_HZ:
        logger.warning(
            "an array without sample_rate is taken as %d Hz, at which it sounds slowed down (a voice of %.0f Hz); if it has "
            "another rate, state it: sample_rate=44100",
            rate,
            voice,
        )


def warn_of_channels(rows: npt.NDArray[np.float32]) -> None:
    """Log a warning if the rows of a batch (2, samples) look like the two channels of one recording."""
    if rows.ndim == 2 and len(rows) == 2 and not np.array_equal(rows[0], rows[1]):
        first, second = rows - rows.mean(axis=1, keepdims=True)
        size = float(np.linalg.norm(first) * np.linalg.norm(second))
        if size and float(first @ second) / size > 0.5:
            logger.warning(
                "an array (2, samples) is two recordings, but these are as alike as the channels of one; if they are, give their "
                "mean: audio.mean(0)"
            )


def _one_channel(samples: npt.NDArray[np.float32], what: str) -> Waveform:
    if samples.ndim == 2 and samples.size:
        channels = int(np.argmin(samples.shape))
        if samples.shape[channels] <= LIMITS.channels and samples.shape[channels] * 20 <= samples.shape[1 - channels]:
            mean: Waveform = samples.mean(axis=channels, dtype=np.float32)
            return mean
    if samples.ndim != 1:
        raise InputError(
            f"{what} has the shape {samples.shape}; expected one recording: (samples,), or with channels (2, samples)"
        )
    return samples

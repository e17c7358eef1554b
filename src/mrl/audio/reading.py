"""Reading a recording: any common format, rate and channel count to (samples,) float32, mono, in [-1, 1]."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TypeVar

import numpy as np

from mrl.audio import ffmpeg_decoder, soundfile_decoder
from mrl.audio.decoded import LIMITS, AudioInfo, Decoded, Resampler, Unreadable, Waveform, Window
from mrl.audio.headers import HeaderFacts, inspect_header
from mrl.audio.sources import AudioSource, Recording, find_recording
from mrl.bounded import said
from mrl.errors import AudioLoadingError, InputError, MRLError

_Answer = TypeVar("_Answer")

SAMPLE_RATE = 16000
"""The rate in Hz at which every network of this package listens."""

FULL_SCALE_TOLERANCE = 16.0  # float files a little above full scale are clipped; far above it the scale itself is wrong
_SMALLER = "read a part of it (offset and duration), or cut it into parts"
_REMEDY = "expected wav, flac, ogg, opus, mp3, m4a, webm or another format that ffmpeg reads: check that it is audio and complete"


def load_audio(
    path: AudioSource,
    *,
    offset: float = 0.0,
    duration: float | None = None,
    sample_rate: int = SAMPLE_RATE,
    allow_silence: bool = False,
) -> Waveform:
    """Read a recording, or a part of it, as one channel.

    libsndfile (soundfile) is asked first: wav (8, 16, 24, 32 bit, float), flac, ogg, opus; mp3 and what it refuses go to ffmpeg
    (PyAV): m4a/AAC, webm, video. Channels are averaged, other rates resampled by soxr (HQ). A part is read by seeking and equals
    the same part of the whole recording (to 2e-6 of full scale where it is resampled, exactly else). Two codecs leave a trace of
    where decoding began: AAC fills noisy bands with random numbers, and Opus at speech bit rates differs by about -50 dB.

    Args:
        path: the file, a stretch of a file (:class:`FileSlice`), or the encoded bytes themselves.
        offset: where to start, in seconds.
        duration: how much to read, in seconds; fewer are returned when the recording ends earlier. None: to the end.
        sample_rate: rate of the result in Hz.
        allow_silence: return a part that is digital silence (all zeros) instead of refusing it.

    Returns:
        ``(samples,)`` float32 in [-1, 1]; values beyond full scale are clipped.

    Raises:
        AudioLoadingError: the file is absent, empty, not audio, damaged, cut off, silent, or holds NaN or infinite samples, or
            ``offset`` is past its end. One line that joins what every decoder said. A cut WAV, Ogg or MP3 file (with a Xing
            header) is refused whatever part is asked for; a cut FLAC, MP4 or WebM file when the missing part is. Formats that do
            not state their length (raw AAC, MP3 without a header, Ogg cut between two pages) cannot tell.
        InputError: ``offset``, ``duration`` or ``sample_rate`` is not a usable number.
    """
    window = _window(offset, duration, sample_rate)
    file, facts = _examine(path)
    reasons: list[str] = []
    decoded: Decoded | None = None
    remedy = ""
    for decoder in (ffmpeg_decoder,) if facts.mp3 else (soundfile_decoder, ffmpeg_decoder):
        try:
            decoded = _ask(decoder.__name__, functools.partial(decoder.decode, file, window))
            break
        except Unreadable as refusal:
            reasons.append(refusal.reason)
            if refusal.final:
                raise _error(file, reasons, refusal.remedy) from refusal
            remedy = refusal.remedy
    if decoded is None:
        raise _error(file, reasons, remedy)
    with _within_memory(file):
        _refuse_unusable(file, decoded, allow_silence)
        samples = window.deliver(decoded.samples, decoded.rate)
        if not samples.size:
            raise _error(file, [f"nothing is left at offset {offset:g} s"], "use a smaller offset or a longer duration")
        clipped: Waveform = np.clip(samples, -1.0, 1.0)
        return clipped


def stream_audio(path: AudioSource, *, duration: float | None = None, block_seconds: float = 30.0) -> Iterator[Waveform]:
    """Read what :func:`load_audio` reads, at 16 kHz, block by block: an hour of it never lies in memory.

    The blocks joined equal the recording that :func:`load_audio` gives (to 2e-6 of full scale where it is resampled, exactly
    else). What can be seen only at its end, such as a cut file or digital silence, is refused after the last block.

    Args:
        path, duration: as for :func:`load_audio`.
        block_seconds: length of the blocks, but for the last one.

    Raises:
        AudioLoadingError, InputError: as :func:`load_audio`.
    """
    window, size = _window(0.0, duration, SAMPLE_RATE), round(block_seconds * SAMPLE_RATE)
    file, facts = _examine(path)
    reasons: list[str] = []
    remedy, delivered = "", 0
    for decoder in (ffmpeg_decoder,) if facts.mp3 else (soundfile_decoder, ffmpeg_decoder):
        before = delivered  # by a decoder that gave up midway
        try:
            for block in _blocks(file, decoder, window, size):
                fresh, before = block[before:], max(0, before - len(block))
                delivered += len(fresh)
                if len(fresh):
                    yield fresh
            return
        except Unreadable as refusal:
            reasons.append(refusal.reason)
            remedy = refusal.remedy
            if refusal.final:
                break
    raise _error(file, reasons, remedy)


def _blocks(file: Recording, decoder: ModuleType, window: Window, size: int) -> Iterator[Waveform]:
    """Yield blocks of ``size`` samples as one decoder gives them, checked, resampled and clipped."""
    parts: Iterator[Decoded] = decoder.stream(file, window)
    held: list[Waveform] = []
    waiting, left, any_signal, any_sound = 0, window.last, False, False
    resampler: Resampler | None = None

    def take(samples: Waveform) -> None:
        nonlocal left, waiting
        samples = np.clip(samples if left is None else samples[:left], -1.0, 1.0)
        left = None if left is None else left - len(samples)
        held.append(samples)
        waiting += len(samples)

    while (part := _ask(decoder.__name__, lambda: next(parts, None))) is not None:
        _refuse_unusable(file, part, allow_silence=True)
        any_signal, any_sound = any_signal or part.any_signal, any_sound or bool(part.samples.any())
        resampler = resampler or Resampler(part.rate, window.sample_rate)
        take(resampler(part.samples))
        if waiting >= size:
            joined, full = np.concatenate(held), waiting // size * size
            held, waiting = [joined[full:]], waiting - full
            yield from joined[:full].reshape(-1, size)
    if resampler is not None:
        take(resampler(np.empty(0, dtype=np.float32), last=True))
    if not any_sound:
        raise _error(file, *_silence(any_signal))
    rest = np.concatenate(held)
    yield from (rest[start : start + size] for start in range(0, len(rest), size))


def audio_info(path: AudioSource) -> AudioInfo:
    """Length, sample rate and channels of a recording by its header, without decoding it.

    Files that do not state an exact length (raw AAC, MP3 without a header, live WebM) have their packets counted.

    Raises:
        AudioLoadingError: as :func:`load_audio`, for what shows without decoding.
    """
    file, facts = _examine(path)
    reasons: list[str] = []
    remedy = ""
    if not facts.mp3:
        try:
            return _ask(soundfile_decoder.__name__, lambda: soundfile_decoder.info(file))
        except Unreadable as refusal:
            reasons.append(refusal.reason)
    try:
        return _ask(ffmpeg_decoder.__name__, lambda: ffmpeg_decoder.info(file, length_stated=facts.length_stated))
    except Unreadable as refusal:
        reasons.append(refusal.reason)
        remedy = refusal.remedy
    raise _error(file, reasons, remedy)


def _window(offset: float, duration: float | None, sample_rate: int) -> Window:
    if not (math.isfinite(offset) and offset >= 0):
        raise InputError(f"offset is {offset}, expected seconds from 0 up")
    if duration is not None and not (math.isfinite(duration) and duration > 0):
        raise InputError(f"duration is {duration}, expected seconds above 0, or None for all that is left")
    if isinstance(sample_rate, bool) or int(sample_rate) != sample_rate or not 1 <= sample_rate <= LIMITS.highest_rate:
        raise InputError(f"sample_rate is {sample_rate}, expected a whole number of Hz such as {SAMPLE_RATE}")
    return Window(float(offset), None if duration is None else float(duration), int(sample_rate))


def _examine(path: AudioSource) -> tuple[Recording, HeaderFacts]:
    recording = find_recording(path)
    try:
        return recording, _ask("header", lambda: inspect_header(recording))
    except Unreadable as refusal:
        raise _error(recording, [refusal.reason], refusal.remedy) from refusal


def _ask(decoder: str, question: Callable[[], _Answer]) -> _Answer:
    """Return what a decoder answers. Whatever it raises about a damaged file becomes its refusal: here, and nowhere else.

    Raises:
        Unreadable: the decoder cannot read the file, for whatever reason.
    """
    try:
        return question()
    except (Unreadable, MRLError):
        raise
    except OSError as error:
        raise Unreadable(f"it cannot be opened ({said(error)})", remedy="check the path and its permissions") from error
    except MemoryError as error:
        raise Unreadable("there is not enough memory to decode it", final=True, remedy=_SMALLER) from error
    except Exception as error:
        name = decoder.rpartition(".")[2].removesuffix("_decoder")
        raise Unreadable(
            f"{name}: damaged ({type(error).__name__}: {said(error)})", remedy="copy or fetch the file again"
        ) from error


@contextlib.contextmanager
def _within_memory(file: Recording) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise _error(file, ["there is not enough memory to resample it"], _SMALLER) from error
    except Unreadable as refusal:
        raise _error(file, [refusal.reason], refusal.remedy) from refusal


def _refuse_unusable(file: Recording, decoded: Decoded, allow_silence: bool) -> None:
    samples = decoded.samples
    peak = float(np.max(np.abs(samples)))
    if not math.isfinite(peak):
        bad = int(np.count_nonzero(~np.isfinite(samples)))
        raise _error(file, [f"{bad} of {samples.size} samples are NaN or infinite"], "write the file again from its source")
    if peak > FULL_SCALE_TOLERANCE:
        raise _error(
            file,
            [f"samples reach {peak:g}, full scale is 1"],
            "divide by the largest integer (32768 for 16 bit) before writing as float",
        )
    if peak == 0.0 and not allow_silence:
        raise _error(file, *_silence(decoded.any_signal))


def _silence(any_signal: bool) -> tuple[list[str], str]:
    """Return what is wrong with a recording whose average channel is zero throughout, and the remedy."""
    if any_signal:
        return ["the channels cancel each other when averaged"], "write one of the channels to a mono file"
    return ["digital silence: every sample read is zero"], "leave it out, or read another part"


def _error(file: Recording, reasons: list[str], remedy: str) -> AudioLoadingError:
    return AudioLoadingError(f"{file.name}: {'; '.join(reasons)}; {remedy or _REMEDY}")

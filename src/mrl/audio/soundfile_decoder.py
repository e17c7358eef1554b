"""Decoding with libsndfile (through soundfile): WAV, FLAC, Ogg/Vorbis, Ogg/Opus, AIFF and their kin."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from mrl.audio.decoded import LIMITS, AudioInfo, Decoded, Unreadable, Waveform, Window, cut_off, past_the_end
from mrl.audio.sources import Recording

if TYPE_CHECKING:
    import soundfile

_IMPLAUSIBLE_FRAMES = 2**48  # libsndfile reports the largest integer for a length that it does not know
_BLOCK_FRAMES = 65536


def decode(recording: Recording, window: Window) -> Decoded:
    """Decode what ``window`` needs, by a seek where libsndfile seeks to the very sample (all but Ogg/Vorbis).

    Raises:
        Unreadable: not a format of libsndfile's, damaged, shorter than its header promises, or the window is past the end.
    """
    with _open(recording) as file:
        start, wanted, stop = window.needed(file.samplerate)
        if wanted >= file.frames:
            raise past_the_end(window.offset, file.frames / file.samplerate)
        count = (file.frames if stop is None else min(stop, file.frames)) - start
        LIMITS.check_size(count, file.channels, rate=file.samplerate, delivered_rate=window.sample_rate)
        samples = _read(recording, file, start, count)
        if len(samples) < count:
            raise cut_off((start + len(samples)) / file.samplerate, file.frames / file.samplerate, "length in the header")
        return Decoded(_mono(samples), file.samplerate, bool(samples.any()))


def stream(recording: Recording, window: Window) -> Iterator[Decoded]:
    """Decode what ``window`` needs, which begins with the recording, block by block.

    Raises:
        Unreadable: as :func:`decode`, where it shows.
    """
    import soundfile

    with _open(recording) as file:
        stop = window.needed(file.samplerate)[2]
        count, rate = file.frames if stop is None else min(stop, file.frames), file.samplerate
        position = 0
        while position < count:
            try:
                samples = file.read(min(_BLOCK_FRAMES, count - position), dtype="float32", always_2d=True)
            except soundfile.SoundFileError as error:
                raise Unreadable(f"soundfile: {_said(error)} ({position / rate:.2f} s found of {count / rate:.2f} s)") from error
            if not len(samples):
                raise cut_off(position / rate, file.frames / rate, "length in the header")
            position += len(samples)
            yield Decoded(_mono(samples), rate, bool(samples.any()))


def info(recording: Recording) -> AudioInfo:
    """Read length, rate and channels from the header."""
    with _open(recording) as file:
        return AudioInfo(file.frames / file.samplerate, file.samplerate, file.channels)


@contextlib.contextmanager
def _open(recording: Recording) -> Iterator[soundfile.SoundFile]:
    import soundfile

    with recording.for_library() as opened:
        try:
            file = soundfile.SoundFile(opened)
        except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:  # TypeError: headerless formats such as .raw
            raise Unreadable(f"soundfile: {_said(error)}") from error
        with file:
            if not 0 < file.frames < _IMPLAUSIBLE_FRAMES:
                raise Unreadable(f"soundfile: {'no samples in it' if file.frames <= 0 else 'the length is not stated'}")
            LIMITS.check_kind(file.samplerate, file.channels)
            LIMITS.check_length(file.frames / file.samplerate)
            yield file


def _mono(samples: Waveform) -> Waveform:
    mono: Waveform = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    return mono


def _said(error: Exception) -> str:
    return str(getattr(error, "error_string", "") or error or "damaged data").removeprefix("Error : ").rstrip(".")


def _read(recording: Recording, file: soundfile.SoundFile, start: int, count: int) -> Waveform:
    """Read ``(count, channels)`` from ``start``, or fewer if the file ends."""
    import soundfile

    try:
        if start and file.subtype == "VORBIS":
            # libsndfile 1.2.2 lands up to 576 samples off in the last part of some Ogg/Vorbis files while saying that it arrived.
            # A whole decode takes 0.3 ms per second of audio.
            return np.asarray(file.read(start + count, dtype="float32", always_2d=True)[start:])
        if start:
            # Some releases of libsndfile and of libopusfile land elsewhere than asked in some Ogg files
            # (libsndfile issues 643 and 794): never trust a seek that does not say that it arrived.
            arrived = file.seek(start)
            if arrived != start:
                raise Unreadable(f"soundfile: seeking to sample {start} arrived at {arrived}")
        samples: Waveform = file.read(count, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        found = _decodable_frames(recording)
        rate = file.samplerate
        raise Unreadable(f"soundfile: {_said(error)} ({found / rate:.2f} s found of {file.frames / rate:.2f} s)") from error
    return samples


def _decodable_frames(recording: Recording) -> int:
    """How far the file decodes from its start: only for the message about a damaged one."""
    import soundfile

    frames = 0
    with _open(recording) as file:
        try:
            while block := len(file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
                frames += block
        except soundfile.SoundFileError:
            return frames  # this is what was to be found out
    return frames

"""Decoding with ffmpeg's libraries (through PyAV): M4A/AAC, MP3, WebM, video files, and whatever libsndfile refuses.

Encoder delay is handled as ffmpeg does: samples before the presentation's start (AAC priming by the edit list, Opus pre-skip,
LAME delay) are dropped, and an MP4 track ends at the length its header states. Positions are counted in samples from the first
one that a whole decode gives.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from mrl.audio.decoded import LIMITS, AudioInfo, Decoded, Unreadable, Waveform, Window, cut_off, past_the_end
from mrl.audio.sources import Recording

if TYPE_CHECKING:
    from fractions import Fraction

# Decoders settle after a seek: Opus asks for 80 ms, HE-AAC for three frames of up to 64 ms, and MP3 frames draw on up to
# 511 bytes of earlier ones (0.3 s at the lowest bit rates).
_PREROLL_SECONDS = 0.5
_WORTH_A_SEEK_SECONDS = 1.0  # before this, decoding from the start is quicker
_TOLERANCE_SECONDS = 0.1  # containers round the length up to whole packets
# Formats with an index of exact times (for MP3 ffmpeg makes it by walking the frame headers). The rest, such as raw AAC and
# ASF, are decoded from the start: ffmpeg might seek by an estimate from the bit rate.
_EXACT_SEEK_FORMATS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mp3", "flac", "wav", "w64", "aiff", "caf"})
_SCALES = {"s16": 2.0**-15, "s32": 2.0**-31, "s64": 2.0**-63, "flt": 1.0, "dbl": 1.0}


def decode(recording: Recording, window: Window) -> Decoded:
    """Decode what ``window`` needs, from the nearest earlier point at which decoding can start.

    Raises:
        Unreadable: ffmpeg cannot read the file, it has no audio stream, is damaged or truncated, or the window is past the end.
    """
    try:
        parts = list(_parts(recording, window, may_seek=True))
    except _LedAstray:
        parts = list(_parts(recording, window, may_seek=False))
    return Decoded(np.concatenate([part.samples for part in parts]), parts[0].rate, any(part.any_signal for part in parts))


def stream(recording: Recording, window: Window) -> Iterator[Decoded]:
    """Decode what ``window`` needs part by part, without a seek.

    Raises:
        Unreadable: as :func:`decode`, where it shows.
    """
    return _parts(recording, window, may_seek=False, streamed=True)


def info(recording: Recording, *, length_stated: bool = True) -> AudioInfo:
    """Length, rate and channels by the header; where it does not state an exact length, by counting packets (no decoding)."""
    with _open(recording) as (container, stream), _ffmpeg_errors():
        first = next(container.decode(stream), None)
        if first is None:
            raise Unreadable("ffmpeg: no samples in it")
        rate, channels = first.sample_rate, len(first.layout.channels)
        LIMITS.check_kind(rate, channels)
        seconds = _promised_seconds(container, stream)
        if container.format.name == "mp3" and length_stated and stream.duration is not None:
            seconds = stream.duration * stream.time_base
        if seconds is None:
            seconds = _seconds_by_packets(recording)
        LIMITS.check_length(float(seconds))
        return AudioInfo(float(seconds), rate, channels)


class _LedAstray(Exception):
    """A seek arrived elsewhere, or what lies behind it is damaged: decode from the start, to say how far the file is good."""


def _parts(recording: Recording, window: Window, *, may_seek: bool, streamed: bool = False) -> Iterator[Decoded]:
    with _open(recording) as (container, stream):
        position = held = 0
        rate = stream.rate or 1
        promised = _promised_seconds(container, stream)
        sought = False
        try:
            frames: Iterator[Any] = container.decode(stream)
            head = list(islice(frames, 3))
            if not head:
                raise Unreadable("ffmpeg: no samples in it")
            rate = head[0].sample_rate  # the decoder's word: headers of HE-AAC state half the rate
            channels = len(head[0].layout.channels)
            LIMITS.check_kind(rate, channels)
            start, wanted, stop = window.needed(rate)
            if promised is not None and container.format.name.startswith("mov"):
                end = round(promised * rate)
                if wanted >= end:
                    raise past_the_end(window.offset, end / rate)
                stop = end if stop is None else min(stop, end)
            frames = chain(head, frames)
            seconds_before = start / rate - _PREROLL_SECONDS
            if may_seek and seconds_before > _WORTH_A_SEEK_SECONDS and container.format.name in _EXACT_SEEK_FORMATS:
                sought = True
                landed = _seek(container, stream, head, seconds_before)
                if landed is None or landed[0] > start:
                    raise _LedAstray
                position, frames = landed
            reached_end = False
            while stop is None or position < stop:
                LIMITS.check_length(position / rate)
                if not streamed:
                    LIMITS.check_size(held, 1, rate=rate, delivered_rate=window.sample_rate)
                frame = next(frames, None)
                if frame is None:
                    reached_end = True
                    break
                if frame.sample_rate != rate:
                    raise Unreadable(f"ffmpeg: the sample rate changes from {rate} to {frame.sample_rate} Hz", final=True)
                mono, signal = _to_mono(frame)
                part = mono[max(0, start - position) : None if stop is None else stop - position]
                position += len(mono)
                if len(part):
                    held += len(part)
                    yield Decoded(part, rate, signal)
        except _errors() as error:
            if sought:
                raise _LedAstray from error
            due = "" if promised is None else f" of {float(promised):.2f} s"
            raise Unreadable(
                f"ffmpeg: {_said(error)} ({position / rate:.2f} s found{due})",
                remedy="the file is cut off or damaged: copy or fetch it again",
            ) from error
        if reached_end and promised is not None and position / rate < promised - _TOLERANCE_SECONDS:
            raise cut_off(position / rate, float(promised), "length in the header")
        if wanted >= position or not held:
            raise past_the_end(window.offset, position / rate)


def _seek(container: Any, stream: Any, head: list[Any], seconds: float) -> tuple[int, Iterator[Any]] | None:
    """Go to the nearest place before ``seconds`` where decoding can start; return the position in samples and the frames from it.

    Matroska rounds times to a millisecond. Frames lie on a grid, though, which the first frames show (multiples of 2.5 ms for
    Opus, of 64 samples or more for all others), and the rounded time is put back on it.
    """
    clock: Fraction = stream.time_base
    first, rate = head[0], head[0].sample_rate
    if first.pts is None or len(head) < 3:
        return None
    container.seek(first.pts + int(seconds / clock), stream=stream, backward=True)
    frames: Iterator[Any] = container.decode(stream)
    next(frames, None)  # incomplete: its overlap with the frame before is missing, or its start was dropped as pre-skip
    second = next(frames, None)
    if second is None or second.pts is None:
        return None
    estimate = float((second.pts - first.pts) * clock * rate)
    lengths = {frame.samples for frame in head[1:]}
    is_opus = stream.codec_context.name.endswith("opus")
    step = rate // 400 if is_opus else lengths.pop() if len(lengths) == 1 else 64
    snapped = first.samples + round((estimate - first.samples) / step) * step
    # Two roundings to the clock's tick are allowed for; a frame farther from the grid than that is not on it.
    position = snapped if abs(snapped - estimate) <= float(clock * rate) + 1 else round(estimate)
    return position, chain([second], frames)


_CONTAINERS = (
    *("aac", "ac3", "aiff", "amr", "amrnb", "amrwb", "ape", "asf", "au", "avi", "caf", "dts", "eac3", "flac", "flv", "gsm"),
    *("m4a", "matroska", "mov", "mp3", "mp4", "mpeg", "mpegts", "ogg", "tta", "w64", "wav", "webm", "wv", "xwma", "3gp"),
)
"""Containers that hold sound themselves. Playlists (concat, hls, dash) are none: they name other files, which would be read."""


@contextlib.contextmanager
def _open(recording: Recording) -> Iterator[tuple[Any, Any]]:
    import av

    with recording.for_library() as opened:
        try:
            # "file:" so that a colon in a name is not taken for a protocol; the whitelists so that a playlist opens nothing else.
            address = f"file:{opened}" if isinstance(opened, str) else opened
            container = av.open(
                address,
                metadata_errors="ignore",
                options={"protocol_whitelist": "file", "format_whitelist": ",".join(_CONTAINERS)},
            )
        except _errors() as error:
            raise Unreadable(f"ffmpeg: {_said(error)}") from error
        with container:
            if not container.streams.audio:
                raise Unreadable("ffmpeg: there is no audio stream in it")
            yield container, container.streams.audio[0]


def _errors() -> tuple[type[Exception], ...]:
    import av

    return (av.error.FFmpegError, OSError)


def _said(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


@contextlib.contextmanager
def _ffmpeg_errors() -> Iterator[None]:
    try:
        yield
    except _errors() as error:
        raise Unreadable(f"ffmpeg: {_said(error)}") from error


def _promised_seconds(container: Any, stream: Any) -> Fraction | float | None:
    """The length that the header states for the audio stream, where the format has an exact one; None otherwise."""
    name = container.format.name
    if (name.startswith("mov") or name in ("flac", "wav")) and stream.duration is not None:
        length: Fraction = stream.duration * stream.time_base
        return length
    if name == "matroska,webm":
        for key, value in stream.metadata.items():
            stated = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", value) if key.upper().startswith("DURATION") else None
            if stated:
                start = float((stream.start_time or 0) * stream.time_base)
                return int(stated[1]) * 3600 + int(stated[2]) * 60 + float(stated[3]) - start
        if len(container.streams) == 1 and container.duration is not None:
            return float(container.duration) / 1e6
    return None


def _seconds_by_packets(recording: Recording) -> float:
    with _open(recording) as (container, stream):
        return float(sum(packet.duration or 0 for packet in container.demux(stream)) * stream.time_base)


def _to_mono(frame: Any) -> tuple[Waveform, bool]:
    """The mean of a frame's channels as (samples,) in [-1, 1], and whether any channel holds a sample that is not zero."""
    data = frame.to_ndarray()
    if not frame.format.is_planar:
        data = data.reshape(-1, len(frame.layout.channels)).T
    kind = frame.format.name.removesuffix("p")
    if kind == "u8":
        data, scale = data.astype(np.float32) - 128.0, 2.0**-7
    elif kind in _SCALES:
        scale = _SCALES[kind]
    else:
        raise Unreadable(f"ffmpeg: samples of kind {frame.format.name} are not supported", final=True)
    mono: Waveform = (data.mean(axis=0, dtype=np.float64) * scale).astype(np.float32)
    return mono, bool(data.any())

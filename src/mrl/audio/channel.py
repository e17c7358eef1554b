"""Transmission channels: telephone band, G.711 and lossy codecs, as pure functions on (samples,) float32.

Every function returns as many samples as it was given, at the same time: a codec's delay is taken out.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np

from mrl.audio.decoded import Waveform, resample
from mrl.audio.reading import SAMPLE_RATE
from mrl.errors import InputError, MissingDependencyError

TELEPHONE_RATE = 8000
"""Sample rate of narrowband telephony in Hz."""

_MU = 255.0
_A = 87.6
_TELEPHONE_BAND = (300.0, 3400.0)
_FILTER_TAPS = 255

# name -> (encoders, the first that is there is taken; container; rates that the encoder takes, in Hz; usual bit rate in kbit/s;
# samples that the encoder puts before the first and that the container, unlike the others, does not tell the decoder to drop)
_CODECS: dict[str, tuple[tuple[str, ...], str, int, int, int]] = {
    "opus": (("libopus",), "ogg", 48000, 16, 0),
    "aac": (("aac",), "adts", 16000, 32, 1024),
    "mp3": (("libmp3lame",), "mp3", 16000, 32, 0),
}
CODECS = tuple(_CODECS)
"""Lossy codecs that :func:`code_and_decode` knows."""


def mu_law(samples: Waveform) -> Waveform:
    """Code each sample in 8 bits by the continuous µ-law (µ = 255) and decode it: about 38 dB for loud speech.

    Source: ITU-T G.711, whose segmented curve this formula is the limit of.
    """
    compressed = np.sign(samples) * np.log1p(_MU * np.abs(np.clip(samples, -1.0, 1.0))) / np.log1p(_MU)
    levels = np.round((compressed + 1.0) * 127.5) / 127.5 - 1.0
    decoded: Waveform = (np.sign(levels) * np.expm1(np.abs(levels) * np.log1p(_MU)) / _MU).astype(np.float32)
    return decoded


def a_law(samples: Waveform) -> Waveform:
    """Code each sample in 8 bits by the continuous A-law (A = 87.6) and decode it.

    Source: ITU-T G.711, as for :func:`mu_law`.
    """
    magnitude = np.abs(np.clip(samples, -1.0, 1.0)).astype(np.float64)
    slope = 1.0 + np.log(_A)
    small = magnitude < 1.0 / _A
    compressed = np.where(small, _A * magnitude, 1.0 + np.log(np.maximum(_A * magnitude, 1.0))) / slope
    levels = np.round((np.sign(samples) * compressed + 1.0) * 127.5) / 127.5 - 1.0
    strength = np.abs(levels)
    expanded = np.where(strength < 1.0 / slope, strength * slope / _A, np.exp(strength * slope - 1.0) / _A)
    decoded: Waveform = (np.sign(levels) * expanded).astype(np.float32)
    return decoded


def narrowband(samples: Waveform, sample_rate: int = SAMPLE_RATE) -> Waveform:
    """Take away everything above 4 kHz by resampling to 8 kHz and back."""
    low = resample(samples, sample_rate, TELEPHONE_RATE)
    return _fitted(resample(low, TELEPHONE_RATE, sample_rate), len(samples))


def telephone_band(samples: Waveform, sample_rate: int = SAMPLE_RATE) -> Waveform:
    """Leave 300 to 3400 Hz, the band of analogue telephones and of narrowband speech codecs; linear phase, no delay."""
    return _fitted(resample(_telephone_band_at_8_khz(samples, sample_rate), TELEPHONE_RATE, sample_rate), len(samples))


def g711(samples: Waveform, sample_rate: int = SAMPLE_RATE, *, law: str = "mu") -> Waveform:
    """Code speech as G.711 does, at 8 kHz with 8 bits per sample, and decode it; what lies above 4 kHz is lost.

    Args:
        samples: ``(samples,)``, clipped to full scale.
        sample_rate: of the samples, in Hz.
        law: ``"mu"`` (North America, Japan) or ``"a"`` (elsewhere).

    Raises:
        InputError: another law.
    """
    coded = _law(law)(resample(samples, sample_rate, TELEPHONE_RATE))
    return _fitted(resample(coded, TELEPHONE_RATE, sample_rate), len(samples))


def telephone(samples: Waveform, sample_rate: int = SAMPLE_RATE, *, law: str = "mu") -> Waveform:
    """Send speech through a digital telephone line: 8 kHz, 300 to 3400 Hz, 8 bits per sample by the µ-law or A-law.

    Args:
        samples: ``(samples,)``, clipped to full scale.
        sample_rate: of the samples, in Hz.
        law: ``"mu"`` (North America, Japan) or ``"a"`` (elsewhere).

    Raises:
        InputError: another law.
    """
    coded = _law(law)(_telephone_band_at_8_khz(samples, sample_rate))
    return _fitted(resample(coded, TELEPHONE_RATE, sample_rate), len(samples))


def code_and_decode(samples: Waveform, codec: str, *, kilobits: float | None = None, sample_rate: int = SAMPLE_RATE) -> Waveform:
    """Encode speech by a lossy codec and decode it again, all in memory.

    Args:
        samples: ``(samples,)``, clipped to full scale.
        codec: one of :data:`CODECS`.
        kilobits: bit rate in kbit/s; by default 16 for Opus and 32 for AAC and MP3.
        sample_rate: of the samples, in Hz.

    Raises:
        InputError: unknown codec, no samples, or a bit rate that the encoder refuses.
        MissingDependencyError: this build of PyAV lacks the encoder.
    """
    import av

    if codec not in _CODECS:
        raise InputError(f"codec {codec!r} is unknown, expected one of {', '.join(CODECS)}")
    if not samples.size:
        raise InputError("there are no samples to encode")
    _, container_format, rate, usual, delay = _CODECS[codec]
    bit_rate = 1000.0 * (usual if kilobits is None else kilobits)
    if not 4000 <= bit_rate <= 512000:
        raise InputError(f"a bit rate of {bit_rate / 1000:g} kbit/s cannot be used, expected 4 to 512")
    encoder = find_encoder(codec)
    source = resample(np.clip(samples, -1.0, 1.0).astype(np.float32), sample_rate, rate)
    try:
        decoded = _decode(_encode(source, rate, encoder, container_format, int(bit_rate)), rate)
    except av.error.FFmpegError as error:
        raise InputError(f"{codec} at {bit_rate / 1000:g} kbit/s failed: {error}") from error
    return _fitted(resample(decoded[delay:], rate, sample_rate), len(samples))


def find_encoder(codec: str) -> str:
    """Return ffmpeg's name of the encoder for one of :data:`CODECS`.

    Raises:
        InputError: unknown codec.
        MissingDependencyError: this build of PyAV lacks the encoder.
    """
    import av

    if codec not in _CODECS:
        raise InputError(f"codec {codec!r} is unknown, expected one of {', '.join(CODECS)}")
    encoder = next((name for name in _CODECS[codec][0] if name in av.codecs_available), None)
    if encoder is None:
        raise MissingDependencyError(
            f"this build of PyAV has no encoder for {codec}; install PyAV from its wheel: pip install av"
        )
    return encoder


def _encode(samples: Waveform, rate: int, encoder: str, container_format: str, bit_rate: int) -> bytes:
    import av

    memory = io.BytesIO()
    with av.open(memory, "w", format=container_format) as container:
        stream: Any = container.add_stream(encoder, rate=rate, layout="mono")
        stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        context = stream.codec_context
        resampler = av.AudioResampler(format=context.format, layout="mono", rate=rate, frame_size=context.frame_size or 1024)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return memory.getvalue()


def _decode(data: bytes, rate: int) -> Waveform:
    import av

    with av.open(io.BytesIO(data), "r") as container:
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
        frames: list[Any] = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
        frames += resampler.resample(None)
        decoded: Waveform = np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.float32)
        return decoded


def _law(law: str) -> Callable[[Waveform], Waveform]:
    if law not in ("mu", "a"):
        raise InputError(f"law is {law!r}, expected 'mu' or 'a'")
    return mu_law if law == "mu" else a_law


def _telephone_band_at_8_khz(samples: Waveform, sample_rate: int) -> Waveform:
    low = resample(samples, sample_rate, TELEPHONE_RATE)
    filtered = np.convolve(low, _band_pass(*_TELEPHONE_BAND, TELEPHONE_RATE), mode="full")
    band: Waveform = filtered[_FILTER_TAPS // 2 :][: len(low)].astype(np.float32)
    return band


def _band_pass(low_hz: float, high_hz: float, rate: int) -> Waveform:
    """Linear-phase band-pass of :data:`_FILTER_TAPS` taps: the difference of two windowed low-passes."""
    time = np.arange(_FILTER_TAPS) - _FILTER_TAPS // 2
    window = np.blackman(_FILTER_TAPS)

    def low_pass(hertz: float) -> Any:
        taps = np.sinc(2 * hertz / rate * time) * window
        return taps / taps.sum()

    taps: Waveform = (low_pass(high_hz) - low_pass(low_hz)).astype(np.float32)
    return taps


def _fitted(samples: Waveform, length: int) -> Waveform:
    """Cut to ``length``, or fill up with silence."""
    return samples[:length] if len(samples) >= length else np.pad(samples, (0, length - len(samples)))

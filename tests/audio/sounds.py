"""Small recordings that the tests make for themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

Waveform = npt.NDArray[np.float32]


def tone(rate: int, seconds: float, hertz: float = 440.0, amplitude: float = 0.25) -> Waveform:
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def sweep(rate: int, seconds: float) -> Waveform:
    """A tone that rises from 200 Hz, so that every place in it is different."""
    t = np.arange(round(rate * seconds)) / rate
    return (0.3 * np.sin(2 * np.pi * (200 * t + 100 * t * t))).astype(np.float32)


def frequency_and_amplitude(samples: Waveform, rate: int) -> tuple[float, float]:
    """Of the strongest sine, by a parabola through the peak of the log spectrum (0.1 Hz at one second)."""
    window = np.hanning(len(samples))
    spectrum = np.abs(np.fft.rfft(samples * window, 4 * len(samples)))
    peak = int(np.argmax(spectrum))
    left, middle, right = np.log(spectrum[peak - 1 : peak + 2])
    shift = 0.5 * (left - right) / (left - 2 * middle + right)
    return (peak + shift) * rate / (4 * len(samples)), float(2 * spectrum[peak] / window.sum())


def write_with_soundfile(path: Path, samples: Waveform, rate: int, **kind: str) -> Path:
    soundfile.write(str(path), samples, rate, **kind)
    return path


def write_with_ffmpeg(
    path: Path, samples: Waveform, rate: int, codec: str, *, substitute_noise: bool = False, **options: str
) -> Path:
    """Write (samples,) or (samples, 2) with PyAV; noise substitution of AAC is off, so that decoding is repeatable."""
    import av

    planes = np.atleast_2d(samples.T).astype(np.float32)
    layout = "mono" if len(planes) == 1 else "stereo"
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        if codec == "aac" and not substitute_noise:
            stream.codec_context.options = {"aac_pns": "0"}
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(planes), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        context = stream.codec_context
        resampler = av.AudioResampler(format=context.format, layout=layout, rate=rate, frame_size=context.frame_size or 1024)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path

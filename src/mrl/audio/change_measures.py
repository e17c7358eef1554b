"""What a change did to an utterance, measured and put in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from mrl.audio.augment import Change
from mrl.audio.clipping import clipped_share
from mrl.audio.noise import power
from mrl.audio.reading import SAMPLE_RATE
from mrl.audio.rooms import reverberation_time
from mrl.audio.windows import Waveform
from mrl.errors import InputError

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

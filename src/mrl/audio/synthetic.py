"""Synthetic voices: a small source-filter synthesiser, for demonstrations and tests only.

A voice is a glottal source (Klatt and Klatt 1990, KLGLOTT88 pulse: open quotient, tilt, breathiness, jitter, shimmer) through a
vocal tract (Fant 1960: five resonances per speech sound, all scaled by the tract's length, with a speaker's own small
departures). Sounds follow each other at random: vowels (mean formants of American English as in Peterson and Barney 1952),
nasals, glides, fricatives, stops, pauses. Every utterance has its own pitch contour, rate, channel (tilt and a few bends) and
background noise, so that a trivial measure such as the mean spectrum tells speakers apart only in part. The babble that comes out
has a speaker but no words; error rates on it say that a system works, not how good it is.

Filtering is done frame by frame in the frequency domain with overlap-add, all frames at once, by NumPy alone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mrl.audio.decoded import Waveform
from mrl.audio.reading import SAMPLE_RATE
from mrl.errors import InputError
from mrl.files import atomic_path

_Track = npt.NDArray[np.float32]

_HOP = 128  # samples between frames (8 ms)
_WINDOW = 256
_FFT = 512
_FREQUENCIES = np.fft.rfftfreq(_FFT, 1.0 / SAMPLE_RATE).astype(np.float32)
_HANN = (0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(_WINDOW) / _WINDOW)).astype(np.float32)


@dataclass(frozen=True)
class _Sound:
    """Formants in Hz of a tract of mean length; strengths of voicing and of hiss; centre and width of the hiss; seconds."""

    formants: tuple[float, float, float]
    voicing: float
    hiss: float = 0.0
    centre: float = 3000.0
    width: float = 1500.0
    seconds: tuple[float, float] = (0.06, 0.16)


_VOWELS = tuple(
    _Sound(formants, 1.0, seconds=(0.08, 0.2))
    for formants in (
        (300.0, 2540.0, 3150.0),  # beet
        (410.0, 2230.0, 2800.0),  # bit
        (570.0, 2080.0, 2720.0),  # bet
        (760.0, 1880.0, 2640.0),  # bat
        (790.0, 1150.0, 2600.0),  # father
        (580.0, 880.0, 2560.0),  # bought
        (455.0, 1090.0, 2450.0),  # book
        (335.0, 910.0, 2430.0),  # boot
        (700.0, 1290.0, 2580.0),  # but
        (495.0, 1500.0, 1820.0),  # bird
    )
)
_CONSONANTS = (
    _Sound((270.0, 1100.0, 2300.0), 0.35, seconds=(0.05, 0.1)),  # m
    _Sound((270.0, 1600.0, 2600.0), 0.35, seconds=(0.05, 0.1)),  # n
    _Sound((360.0, 1100.0, 2800.0), 0.6, seconds=(0.05, 0.09)),  # l
    _Sound((340.0, 1150.0, 1650.0), 0.6, seconds=(0.05, 0.09)),  # r
    _Sound((290.0, 2200.0, 3000.0), 0.6, seconds=(0.04, 0.08)),  # y
    _Sound((300.0, 720.0, 2300.0), 0.6, seconds=(0.04, 0.08)),  # w
    _Sound((320.0, 1700.0, 2600.0), 0.0, 0.30, 6000.0, 1400.0, (0.07, 0.14)),  # s
    _Sound((320.0, 1900.0, 2600.0), 0.0, 0.30, 3300.0, 1000.0, (0.07, 0.14)),  # sh
    _Sound((320.0, 1200.0, 2500.0), 0.0, 0.08, 4500.0, 3500.0, (0.06, 0.12)),  # f
    _Sound((320.0, 1700.0, 2600.0), 0.3, 0.12, 5800.0, 1400.0, (0.05, 0.1)),  # z
    _Sound((320.0, 1200.0, 2500.0), 0.4, 0.04, 4500.0, 3500.0, (0.04, 0.08)),  # v
    _Sound((500.0, 1500.0, 2500.0), 0.0, 0.10, 1500.0, 1200.0, (0.04, 0.08)),  # h
)
_CLOSURE = _Sound((300.0, 1400.0, 2500.0), 0.0, seconds=(0.04, 0.08))
_BURSTS = (
    _Sound((300.0, 900.0, 2300.0), 0.0, 0.35, 800.0, 700.0, (0.012, 0.03)),  # p
    _Sound((300.0, 1750.0, 2600.0), 0.0, 0.35, 4500.0, 1500.0, (0.012, 0.03)),  # t
    _Sound((300.0, 1900.0, 2300.0), 0.0, 0.35, 2000.0, 800.0, (0.02, 0.04)),  # k
)
_PAUSE = _Sound((500.0, 1500.0, 2500.0), 0.0, seconds=(0.06, 0.25))


@dataclass(frozen=True)
class SyntheticVoice:
    """What stays the same in all that one speaker says.

    Attributes:
        pitch: mean fundamental frequency, Hz.
        pitch_range: standard deviation of the intonation, as a fraction of ``pitch``.
        tract_scale: factor on all formants; above 1 for a short vocal tract.
        formant_scales: the speaker's own factors on formants 1 to 5.
        vowel_shifts: own factors on the first two formants of each vowel, ``(vowels, 2)``.
        bandwidth_scale: factor on all bandwidths.
        open_quotient: part of the glottal cycle in which the glottis is open.
        tilt: slope of the source beyond that of the pulse, dB per octave above 500 Hz.
        breathiness: level of aspiration noise against voicing.
        jitter, shimmer: cycle-to-cycle irregularity of period and amplitude, as fractions.
        rate: speaking rate, 1 is average.
        hiss_scale: factor on the centre frequencies of fricatives and bursts.
    """

    pitch: float
    pitch_range: float
    tract_scale: float
    formant_scales: tuple[float, ...]
    vowel_shifts: tuple[tuple[float, float], ...]
    bandwidth_scale: float
    open_quotient: float
    tilt: float
    breathiness: float
    jitter: float
    shimmer: float
    rate: float
    hiss_scale: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> SyntheticVoice:
        """Draw a speaker: low voices with long tracts or high voices with short ones, overlapping."""
        high = rng.random() < 0.5
        pitch = (195.0 if high else 118.0) * np.exp(rng.normal(0.0, 0.18))
        tract_scale = (1.0 if high else 0.87) * np.exp(rng.normal(0.0, 0.075))
        return cls(
            pitch=float(pitch),
            pitch_range=float(rng.uniform(0.06, 0.16)),
            tract_scale=float(tract_scale),
            formant_scales=tuple(np.exp(rng.normal(0.0, (0.05, 0.05, 0.07, 0.08, 0.08))).tolist()),
            vowel_shifts=tuple((float(a), float(b)) for a, b in np.exp(rng.normal(0.0, 0.05, (len(_VOWELS), 2)))),
            bandwidth_scale=float(np.exp(rng.normal(0.0, 0.2))),
            open_quotient=float(rng.uniform(0.45, 0.8)),
            tilt=float(rng.uniform(-9.0, 2.0)),
            breathiness=float(10.0 ** rng.uniform(-2.0, -0.7)),
            jitter=float(rng.uniform(0.003, 0.015)),
            shimmer=float(rng.uniform(0.02, 0.12)),
            rate=float(np.exp(rng.normal(0.0, 0.12))),
            hiss_scale=float(np.exp(rng.normal(0.0, 0.08))),
        )

    def say(self, rng: np.random.Generator, seconds: float) -> Waveform:
        """Speak at random for ``seconds``: ``(samples,)`` float32 at 16 kHz, peak below full scale.

        The sequence of sounds, the intonation, the level, the channel and the background noise are new at each call.

        Raises:
            InputError: ``seconds`` is not positive.
        """
        samples = round(seconds * SAMPLE_RATE)
        if samples < 1:
            raise InputError(f"seconds is {seconds}, expected more than 0")
        frames = -(-samples // _HOP) + 3
        tracks = _score(self, frames, rng)
        length = (frames - 1) * _HOP + _WINDOW
        voicing = _per_sample(tracks.voicing, length)
        source = self._glottal_source(rng, length) * voicing
        hiss = rng.standard_normal(length, dtype=np.float32)
        aspiration = hiss * voicing * np.float32(self.breathiness)
        tract = _tract_response(tracks.formants, self.bandwidth_scale) * _tilt_response(self.tilt)
        mouth = _noise_response(tracks.centre, tracks.width) * _smooth(tracks.hiss, 2)[:, None]
        spectra = _analyse(source + aspiration, frames) * tract + _analyse(hiss, frames) * mouth
        speech = _overlap_add(spectra * _channel_response(rng))[_WINDOW : _WINDOW + samples]
        noise = _overlap_add(_analyse(rng.standard_normal(length, dtype=np.float32), frames) * _channel_response(rng, wide=True))
        noise = noise[_WINDOW : _WINDOW + samples]
        snr_db = rng.uniform(25.0, 35.0)
        speech = speech / np.float32(np.sqrt(np.mean(np.square(speech))) + 1e-9)
        mixed = speech + noise * np.float32(10.0 ** (-snr_db / 20.0) / np.sqrt(np.mean(np.square(noise))))
        peak = np.float32(10.0 ** (rng.uniform(-8.0, -4.0) / 20.0) / np.max(np.abs(mixed)))
        result: Waveform = (mixed * peak).astype(np.float32)
        return result

    def _glottal_source(self, rng: np.random.Generator, length: int) -> _Track:
        """Flow derivative of KLGLOTT88 pulses along a random pitch contour, at unit power."""
        knots = np.arange(0, length + SAMPLE_RATE, SAMPLE_RATE // 8)
        contour = np.cumsum(rng.normal(0.0, 1.0, len(knots)))
        contour = (contour - contour.mean()) / max(float(contour.std()), 1e-6) * self.pitch_range
        session = rng.normal(0.0, 0.05)  # mood and effort of the day
        declination = np.linspace(0.06, -0.06, len(knots))
        pitch = self.pitch * np.exp(session + declination + contour)
        cycles = np.cumsum(np.interp(np.arange(length), knots, pitch) / SAMPLE_RATE)
        count = int(cycles[-1]) + 3
        wander = np.cumsum(rng.normal(0.0, self.jitter, count))
        wander -= np.interp(
            np.arange(count), np.arange(0, count + 16, 16), wander[np.minimum(np.arange(0, count + 16, 16), count - 1)]
        )
        cycles += np.interp(cycles, np.arange(count), wander) + 1.0
        whole = cycles.astype(np.int64)
        phase = ((cycles - whole) / self.open_quotient).astype(np.float32)
        pulse = np.where(phase < 1.0, 2.0 * phase - 3.0 * phase * phase, np.float32(0.0))
        strength = np.maximum(0.2, 1.0 + rng.normal(0.0, self.shimmer, count + 2)).astype(np.float32)
        pulse *= strength[np.minimum(whole, count + 1)]
        source: _Track = (pulse / np.sqrt(np.mean(np.square(pulse)))).astype(np.float32)
        return source


@dataclass(frozen=True)
class _Tracks:
    """The score of an utterance, per frame: ``formants`` (frames, 5) in Hz, the others (frames,)."""

    formants: _Track
    voicing: _Track
    hiss: _Track
    centre: _Track
    width: _Track


def _score(voice: SyntheticVoice, frames: int, rng: np.random.Generator) -> _Tracks:
    """Draw syllables until the frames are filled, and let each track glide from sound to sound."""
    sounds: list[tuple[_Sound, int, int]] = []  # sound, index of the vowel or -1, frames
    total = 0
    rate = voice.rate * float(np.exp(rng.normal(0.0, 0.08)))
    while total < frames:
        syllable: list[tuple[_Sound, int]] = []
        kind = rng.random()
        if kind < 0.55:
            syllable.append((_CONSONANTS[int(rng.integers(len(_CONSONANTS)))], -1))
        elif kind < 0.8:
            syllable += [(_CLOSURE, -1), (_BURSTS[int(rng.integers(len(_BURSTS)))], -1)]
        vowel = int(rng.integers(len(_VOWELS)))
        syllable.append((_VOWELS[vowel], vowel))
        if rng.random() < 0.3:
            syllable.append((_CONSONANTS[int(rng.integers(len(_CONSONANTS)))], -1))
        if rng.random() < 0.05:
            syllable.append((_PAUSE, -1))
        for sound, index in syllable:
            count = max(1, round(float(rng.uniform(*sound.seconds)) / rate * SAMPLE_RATE / _HOP))
            sounds.append((sound, index, count))
            total += count
    counts = [count for _, _, count in sounds]
    upper = (3700.0, 4700.0)  # formants 4 and 5 hardly move
    own = np.asarray(voice.formant_scales) * voice.tract_scale
    targets = np.array([(*sound.formants, *upper) for sound, _, _ in sounds]) * own
    shifts = np.array([voice.vowel_shifts[index] if index >= 0 else (1.0, 1.0) for _, index, _ in sounds])
    targets[:, :2] *= shifts
    targets *= np.exp(rng.normal(0.0, 0.02, targets.shape))  # no two renditions are alike
    stress = np.exp(rng.normal(0.0, 0.25, len(sounds)))

    def track(values: npt.ArrayLike) -> _Track:
        return np.repeat(np.asarray(values, dtype=np.float32), counts, axis=0)[:frames]

    return _Tracks(
        formants=_smooth(track(targets), 5),
        voicing=_smooth(track([sound.voicing * level for (sound, _, _), level in zip(sounds, stress, strict=True)]), 3),
        hiss=track([sound.hiss for sound, _, _ in sounds]),
        centre=track([sound.centre * voice.hiss_scale for sound, _, _ in sounds]),
        width=track([sound.width for sound, _, _ in sounds]),
    )


def _smooth(track: _Track, width: int) -> _Track:
    """Moving average over ``width`` frames along the first axis, edges held."""
    before = width // 2
    padded = np.concatenate([np.repeat(track[:1], before, 0), track, np.repeat(track[-1:], width - 1 - before, 0)])
    mean: _Track = np.mean([padded[k : k + len(track)] for k in range(width)], axis=0, dtype=np.float32)
    return mean


def _per_sample(track: _Track, length: int) -> _Track:
    centres = np.arange(len(track)) * _HOP + _WINDOW // 2
    return np.interp(np.arange(length), centres, track).astype(np.float32)


def _tract_response(formants: _Track, bandwidth_scale: float) -> npt.NDArray[np.complex64]:
    """Cascade of second-order resonances, ``(frames, bins)``; each has unit gain at 0 Hz.

    A resonance at f Hz has the bandwidth 50 (1 + f^2 / 6e6) Hz or so (Fant 1972), times the speaker's factor.
    """
    s = (1j * _FREQUENCIES)[None, :].astype(np.complex64)
    response = np.ones((len(formants), len(_FREQUENCIES)), dtype=np.complex64)
    for index in range(formants.shape[1]):
        centre = formants[:, index : index + 1]
        half_width = 0.5 * 50.0 * bandwidth_scale * (1.0 + np.square(centre) / 6e6)
        natural = np.square(centre) + np.square(half_width)
        response *= natural / ((s + half_width) ** 2 + np.square(centre))
    return response


def _tilt_response(tilt_db: float) -> _Track:
    octaves = np.log2(np.maximum(_FREQUENCIES, 500.0) / 500.0)
    return (10.0 ** (tilt_db * octaves / 20.0)).astype(np.float32)


def _noise_response(centre: _Track, width: _Track) -> _Track:
    distance = (_FREQUENCIES[None, :] - centre[:, None]) / width[:, None]
    response: _Track = np.exp(-0.5 * np.square(distance)).astype(np.float32)
    return response


def _channel_response(rng: np.random.Generator, *, wide: bool = False) -> _Track:
    """A microphone and its place: a random tilt and three broad bends; for background noise (``wide``) steeper and falling."""
    octaves = np.log2(np.maximum(_FREQUENCIES, 60.0) / 1000.0)
    decibels = rng.normal(-2.0, 1.0) * octaves if wide else rng.normal(0.0, 0.3) * octaves
    for _ in range(3):
        decibels = decibels + rng.normal(0.0, 0.8) * np.exp(-0.5 * np.square((octaves - rng.uniform(-3.0, 3.0)) / 0.6))
    return (10.0 ** (decibels / 20.0)).astype(np.float32)


def _analyse(samples: _Track, frames: int) -> npt.NDArray[np.complex64]:
    """Windowed spectra, ``(frames, bins)``."""
    strided = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_HOP][:frames]
    return np.fft.rfft(strided * _HANN, _FFT).astype(np.complex64)


def _overlap_add(spectra: npt.NDArray[np.complex64]) -> _Track:
    pieces = np.fft.irfft(spectra, _FFT).astype(np.float32)
    frames, parts = len(pieces), _FFT // _HOP
    total = np.zeros((frames + parts - 1, _HOP), dtype=np.float32)
    for part in range(parts):
        total[part : part + frames] += pieces[:, part * _HOP : (part + 1) * _HOP]
    return total.reshape(-1)


def write_synthetic_corpus(
    folder: str | os.PathLike[str],
    *,
    num_speakers: int,
    utterances_per_speaker: int,
    seconds: tuple[float, float] = (2.0, 4.0),
    seed: int,
) -> list[Path]:
    """Write a corpus of synthetic voices: one subfolder per speaker, FLAC, 16 bit, 16 kHz, mono.

    Each utterance depends on ``seed``, its speaker's and its own number alone, so a larger corpus with the same seed contains the
    smaller one. Files appear whole or not at all; those of the same name are replaced.

    Args:
        folder: where to; made if missing.
        num_speakers, utterances_per_speaker: at least 1 each.
        seconds: shortest and longest utterance; lengths are drawn evenly between them.
        seed: not negative.

    Returns:
        The files, by speaker and number: ``folder/speaker0000/utterance0000.flac``, ...

    Raises:
        InputError: a number is out of range.
        OSError: the folder cannot be written to, or the disk is full.
    """
    if num_speakers < 1 or utterances_per_speaker < 1 or seed < 0:
        raise InputError(
            f"num_speakers is {num_speakers}, utterances_per_speaker {utterances_per_speaker}, seed {seed}; "
            "expected at least 1, 1 and 0"
        )
    if not 0.0 < seconds[0] <= seconds[1]:
        raise InputError(f"seconds is {seconds}, expected (shortest, longest), both above 0")
    import soundfile

    files = []
    for speaker in range(num_speakers):
        voice = SyntheticVoice.random(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(speaker,))))
        for utterance in range(utterances_per_speaker):
            rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(speaker, utterance)))
            speech = voice.say(rng, rng.uniform(*seconds))
            file = Path(folder, f"speaker{speaker:04d}", f"utterance{utterance:04d}.flac")
            with atomic_path(file) as temporary:
                soundfile.write(str(temporary), speech, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
            files.append(file)
    return files

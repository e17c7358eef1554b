"""Recordings window by window: memory does not grow with their length, and neither does attention, which is quadratic in it.

**One embedding from many.** The raw embeddings of the windows are averaged, each weighted by the audio that it adds. The head of
a network is an affine map of the pooled statistics, so this is the embedding of the averaged statistics: for the attentive mean
exactly the mean over windows, for the deviation the mean deviation within windows. Merging exactly would take the sums of the
attention weights of every window, which an exported file does not give, and would add the spread between windows to the
deviation; measured, it is not better (``docs/how-to/difficult-audio.md``). So one rule serves networks in torch and exported
files.

**Windows of one length.** The last window ends with the recording and reaches back into the one before it, so that every window
has the full length, none is padded, and the result does not depend on how many share a batch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np

from mrl.audio import SAMPLE_RATE
from mrl.embeddings.embedder import Embedder, Matrix, Output, Waveform
from mrl.errors import InputError

logger = logging.getLogger(__name__)

Windows = Iterator[tuple[Waveform, int]]
"""Windows (samples,) and how many samples each adds to those before it."""

_REPORT_SECONDS = 10.0  # of work, between two lines about a long recording


@dataclass(frozen=True, eq=False)
class Sound:
    """What is embedded of a recording.

    Attributes:
        name: of the recording in messages.
        blocks: gives its audio at 16 kHz, in blocks (samples,) one after the other; every call begins again.
        seconds: how much audio that is.
        speech_seconds: of it, not quiet.
    """

    name: str
    blocks: Callable[[], Iterable[Waveform]]
    seconds: float
    speech_seconds: float

    def waveform(self) -> Waveform:
        """Return all of it (samples,)."""
        return _joined(list(self.blocks()))


@dataclass(frozen=True)
class Crops:
    """Evenly spaced crops of every recording: the first at its beginning, the last at its end. One crop is the middle.

    A recording no longer than a crop is used whole, and once: all its crops are the same embedding, and no audio is repeated or
    padded.

    Attributes:
        count: of each recording.
        seconds: length of a crop.
    """

    count: int = 10
    seconds: float = 4.0

    def __post_init__(self) -> None:
        if self.count < 1 or not self.seconds > 0:
            raise InputError(f"num_crops must be at least 1 and crop_seconds above 0 s; found {self.count} and {self.seconds}")

    def cut(self, waveform: Waveform) -> list[Waveform]:
        """Return the different crops (samples,) of a waveform: all, or the whole waveform."""
        samples = max(1, round(self.seconds * SAMPLE_RATE))
        spare = len(waveform) - samples
        if spare <= 0:
            return [waveform]
        starts = np.array([spare / 2]) if self.count == 1 else np.linspace(0, spare, self.count)
        return [waveform[start : start + samples] for start in np.rint(starts).astype(int)]


def cut(blocks: Iterable[Waveform], size: int, overlap: int, whole: int) -> Windows:
    """Cut audio that comes block by block into windows of ``size`` samples, which share ``overlap`` with the one before.

    What is no longer than ``whole`` stays whole. At most ``whole`` samples and a block are held.
    """
    source = iter(blocks)
    held: list[Waveform] = []
    while sum(map(len, held)) <= whole and (block := next(source, None)) is not None:
        held.append(block)
    audio = _joined(held)
    if len(audio) <= whole:
        yield audio, len(audio)
        return
    done = 0  # samples of ``audio`` that are in windows already
    while True:
        while done + size - (overlap if done else 0) <= len(audio):
            start = done - overlap if done else 0
            yield audio[start : start + size], start + size - done
            audio, done = audio[start:], size
        if (block := next(source, None)) is None:
            break
        audio = np.concatenate([audio, block])
    if done < len(audio):
        yield audio[-size:], len(audio) - done


def embed_sounds(
    embedder: Embedder,
    sounds: Sequence[Sound],
    windows: Callable[[Sound], Windows],
    outputs: Sequence[Output],
    dim: int,
    *,
    at_once: int,
    report: bool = False,
) -> tuple[Matrix, ...]:
    """Return the outputs of sounds, each (len(sounds), width): those of a single window in one batch, others one by one.

    Args:
        embedder: the model.
        sounds: what is embedded.
        windows: cuts a sound.
        outputs, dim: as for :meth:`Embedder.outputs`.
        at_once: windows of a long recording per forward pass.
        report: log now and then how far a long recording is.
    """
    single: dict[int, Waveform] = {}
    several: dict[int, Windows] = {}
    for place, sound in enumerate(sounds):
        parts = windows(sound)
        first = list(islice(parts, 2))
        if len(first) == 1:
            single[place] = first[0][0]
        else:
            several[place] = chain(first, parts)
    rows: dict[int, tuple[Matrix, ...]] = {}
    if single:
        together = embedder.outputs(list(single.values()), outputs, dim)
        rows |= {place: tuple(matrix[row] for matrix in together) for row, place in enumerate(single)}
    for place, parts in several.items():
        progress = _Progress(sounds[place]) if report else None
        rows[place] = _average(embedder, parts, outputs, dim, at_once, progress)
    return tuple(np.stack([rows[place][number] for place in range(len(sounds))]) for number in range(len(outputs)))


def _average(
    embedder: Embedder, parts: Windows, outputs: Sequence[Output], dim: int, at_once: int, progress: _Progress | None
) -> tuple[Matrix, ...]:
    raw_outputs: list[Output] = ["raw" if name == "embedding" else name for name in outputs]
    total, samples = [np.zeros(1)] * len(outputs), 0
    while batch := list(islice(parts, at_once)):
        weights = np.array([weight for _, weight in batch], dtype=np.float64)
        made = embedder.outputs([window for window, _ in batch], raw_outputs, dim)
        total = [before + weights @ matrix.astype(np.float64) for before, matrix in zip(total, made, strict=True)]
        samples += int(weights.sum())
        if progress is not None:
            progress.report(samples / SAMPLE_RATE)
    means = [(sum_ / samples).astype(np.float32) for sum_ in total]
    return tuple(
        embedder.prefix(mean[None], dim)[0] if name == "embedding" else mean for name, mean in zip(outputs, means, strict=True)
    )


class _Progress:
    """A line now and then about a recording that takes long."""

    def __init__(self, sound: Sound) -> None:
        self._sound, self._begun = sound, time.monotonic()
        self._last = self._begun

    def report(self, seconds: float) -> None:
        """Say how far the work is, unless that was said a moment ago."""
        now = time.monotonic()
        if now - self._last < _REPORT_SECONDS or not seconds:
            return
        self._last = now
        left = (now - self._begun) * max(0.0, self._sound.seconds / seconds - 1)
        logger.info("%s: %.0f of %.0f s embedded, about %.0f s left", self._sound.name, seconds, self._sound.seconds, left)


def _joined(blocks: Sequence[Waveform]) -> Waveform:
    return blocks[0] if len(blocks) == 1 else np.concatenate([np.empty(0, dtype=np.float32), *blocks])

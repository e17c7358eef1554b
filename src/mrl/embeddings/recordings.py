"""The embedding of one recording, for scores and for the voice store: of unit length, with the speech that it rests on."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mrl.audio import SAMPLE_RATE
from mrl.embeddings.embedder import Embedder, Waveform
from mrl.embeddings.extraction import Extraction
from mrl.errors import CheckpointError

logger = logging.getLogger(__name__)

SHORT_SECONDS = 1.0
"""Recordings with less speech than this are warned about: their scores are much less certain."""

_FRAME = SAMPLE_RATE // 50
_QUIET_DB = 35.0


@dataclass(frozen=True, eq=False)
class EmbeddedRecording:
    """A recording's embedding.

    Attributes:
        embedding: (embed_dim,) float32 of unit length.
        seconds: duration of the recording.
        speech_seconds: of it, not quiet; see :func:`speech_seconds`.
    """

    embedding: npt.NDArray[np.float32]
    seconds: float
    speech_seconds: float


def embed_recording(
    embedder: Embedder,
    recording: str | os.PathLike[str] | bytes | Waveform,
    how: Extraction | None = None,
    *,
    name: str | None = None,
) -> EmbeddedRecording:
    """Embed one recording; a warning is logged where it holds little speech.

    Args:
        embedder: the model.
        recording: its file, the bytes of one, or a waveform (samples,) float32 at 16 kHz.
        how: the settings.
        name: of the recording in messages; its path by default.

    Raises:
        AudioLoadingError: it cannot be decoded, or is silent.
        InputError: it is too short for the network.
        CheckpointError: the model gave NaN, infinity or zeros.
    """
    called = name or (os.fsdecode(recording) if isinstance(recording, (str, os.PathLike)) else "the recording")
    waveform = (how or Extraction()).read(recording)
    seconds, speech = len(waveform) / SAMPLE_RATE, speech_seconds(waveform)
    if speech < SHORT_SECONDS:
        logger.warning("%s has %.2f s of speech; below %g s scores are uncertain", called, speech, SHORT_SECONDS)
    with embedder.ready():
        raw = embedder.raw([waveform])[0]
    length = float(np.linalg.norm(raw.astype(np.float64)))
    if not (np.isfinite(length) and length > 0):
        raise CheckpointError(f"{embedder.name} gave NaN, infinity or only zeros for {called}; check the model")
    return EmbeddedRecording((raw / length).astype(np.float32), seconds, speech)


def speech_seconds(waveform: Waveform) -> float:
    """Return how long a waveform (samples,) at 16 kHz is not quiet: frames of 20 ms within 35 dB of the loud ones.

    The loud ones are those at the 95th percentile of power. This tells pauses from speech in a clean recording; it takes steady
    noise for speech.
    """
    whole = len(waveform) // _FRAME
    if not whole:
        return len(waveform) / SAMPLE_RATE
    frames = waveform[: whole * _FRAME].reshape(whole, _FRAME).astype(np.float64)
    power = np.einsum("nf,nf->n", frames, frames)
    loud = power > 0
    if not loud.any():
        return 0.0
    place = 0.95 * (np.count_nonzero(loud) - 1)
    below, above = math.floor(place), math.ceil(place)
    ordered = np.partition(power[loud], (below, above))  # np.quantile would import numpy.ma, which a short command waits for
    level = ordered[below] + (place - below) * (ordered[above] - ordered[below])
    limit = level * 10 ** (-_QUIET_DB / 10)
    return float(np.count_nonzero(power >= limit) * _FRAME / SAMPLE_RATE)

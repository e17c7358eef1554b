"""The embedding of one recording, for scores and for the voice store: of unit length, with the speech that it rests on."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mrl.audio import AudioSource
from mrl.audio.memory import InMemory
from mrl.embeddings.embedder import Embedder
from mrl.embeddings.extraction import Extraction
from mrl.errors import CheckpointError

logger = logging.getLogger(__name__)

SHORT_SECONDS = 1.0
"""Recordings with less speech than this are warned about: their scores are much less certain."""


@dataclass(frozen=True, eq=False)
class EmbeddedRecording:
    """A recording's embedding.

    Attributes:
        embedding: (embed_dim,) float32 of unit length.
        seconds: how much audio it is of.
        speech_seconds: of it, not quiet; see :func:`mrl.audio.speech.find_speech`.
    """

    embedding: npt.NDArray[np.float32]
    seconds: float
    speech_seconds: float


def embed_recording(
    embedder: Embedder,
    recording: AudioSource | InMemory,
    how: Extraction | None = None,
    *,
    name: str | None = None,
    sample_rate: int | None = None,
) -> EmbeddedRecording:
    """Embed one recording; a warning is logged where it holds little speech.

    Args:
        embedder: the model.
        recording: anything that :func:`mrl.audio.as_waveform` takes: its file, the bytes of one, an array.
        how: the settings.
        name: of the recording in messages; its path by default.
        sample_rate: of an array, in Hz; 16 kHz by default.

    Raises:
        AudioLoadingError: it cannot be decoded, is silent, or has less speech than the settings ask for.
        InputError: an unusable array, or it is too short for the network.
        CheckpointError: the model gave NaN, infinity or zeros.
    """
    chosen = how or Extraction()
    sound = chosen.open(recording, name=name, sample_rate=sample_rate)
    if isinstance(recording, (str, os.PathLike)):
        logger.info("%s: %.1f s of speech, %.1f s embedded", sound.name, sound.speech_seconds, sound.seconds)
    if sound.speech_seconds < SHORT_SECONDS:
        logger.warning(
            "%s has %.2f s of speech; below %g s scores are uncertain", sound.name, sound.speech_seconds, SHORT_SECONDS
        )
    with embedder.ready():
        raw = chosen.embed(embedder, [sound], ["raw"], embedder.embed_dim, report=chosen.show_progress)[0][0]
    length = float(np.linalg.norm(raw.astype(np.float64)))
    if not (np.isfinite(length) and length > 0):
        raise CheckpointError(f"{embedder.name} gave NaN, infinity or only zeros for {sound.name}; check the model")
    return EmbeddedRecording((raw / length).astype(np.float32), sound.seconds, sound.speech_seconds)

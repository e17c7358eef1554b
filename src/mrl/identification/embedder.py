"""One way to embed a recording for the voice store, whatever the model is: a network in torch, or an exported ONNX file."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.audio import SAMPLE_RATE, load_audio
from mrl.errors import CheckpointError, InputError
from mrl.scoring.calibration import Calibration

logger = logging.getLogger(__name__)

ONNX_SUFFIX = ".onnx"
SHORT_SECONDS = 1.0
"""Recordings with less speech than this are warned about: their scores are much less certain."""

_FRAME = SAMPLE_RATE // 50
_QUIET_DB = 35.0

Waveform = npt.NDArray[np.float32]
Embedding = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class EmbeddedRecording:
    """A recording's embedding.

    Attributes:
        embedding: (embed_dim,) float32 of unit length.
        seconds: duration of the recording.
        speech_seconds: of it, not quiet; see :func:`speech_seconds`.
    """

    embedding: Embedding
    seconds: float
    speech_seconds: float


@dataclass(frozen=True, eq=False)
class VoiceEmbedder:
    """A model as the voice store needs it.

    Attributes:
        name: as the user gave it.
        embed_dim: length of the embeddings.
        model_hash: the same for models whose embeddings may be compared with each other.
        calibration: of the model; None without one.
        embed: waveform (samples,) float32 at 16 kHz -> (embed_dim,), of any scale.
        mrl_dims: prefix lengths that the model was made for; empty where it was made for none.
    """

    name: str
    embed_dim: int
    model_hash: str
    calibration: Calibration | None
    embed: Callable[[Waveform], Embedding]
    mrl_dims: tuple[int, ...] = ()

    @property
    def calibration_hash(self) -> str:
        """SHA-256 of the calibration; empty without one."""
        if self.calibration is None:
            return ""
        return hashlib.sha256(json.dumps(self.calibration.to_dict(), sort_keys=True).encode()).hexdigest()

    def embed_file(self, path: str | os.PathLike[str]) -> EmbeddedRecording:
        """Embed a recording; one with little speech is warned about.

        Raises:
            AudioLoadingError: it cannot be decoded, or is silent.
            InputError: it is too short for the network.
            CheckpointError: the model gave NaN, infinity or zeros.
        """
        return self.embed_waveform(load_audio(path), os.fspath(path))

    def embed_waveform(self, waveform: Waveform, recording: str) -> EmbeddedRecording:
        """Embed a waveform (samples,) float32 at 16 kHz; ``recording`` names it in messages.

        Raises:
            InputError, CheckpointError: as :meth:`embed_file`.
        """
        seconds, speech = len(waveform) / SAMPLE_RATE, speech_seconds(waveform)
        if speech < SHORT_SECONDS:
            logger.warning("%s has %.2f s of speech; below %g s scores are uncertain", recording, speech, SHORT_SECONDS)
        raw = np.asarray(self.embed(waveform), dtype=np.float32).reshape(-1)
        length = float(np.linalg.norm(raw.astype(np.float64)))
        if not (np.isfinite(length) and length > 0):
            raise CheckpointError(f"{self.name} gave NaN, infinity or only zeros for {recording}; check the model")
        return EmbeddedRecording((raw / length).astype(np.float32), seconds, speech)


def open_embedder(
    spec: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> VoiceEmbedder:
    """Open a model for the voice store.

    Args:
        spec: a model folder, an official checkpoint, the name of a released model (see :func:`mrl.embeddings.open_model`), or an
            ``.onnx`` file that ``mrl export`` wrote, for which torch is not needed.
        weights: for a released model's name, where its file is.
        device: where a network in torch goes.
        threads: of one call of an ``.onnx`` file, all processors by default; a network goes by ``torch.set_num_threads``.

    Raises:
        InputError: no such model or device.
        CheckpointError: a damaged model or calibration, or a calibration of other weights.
        DownloadError: a released model cannot be fetched.
        MissingDependencyError: an ``.onnx`` file without ONNX Runtime.
    """
    text = os.fspath(spec)
    if Path(text).suffix.lower() == ONNX_SUFFIX:
        if weights is not None:
            raise InputError(f"weights are for a released model's name; {text} has weights of its own")
        if device != "cpu":
            raise InputError(f"{text} runs on the CPU; leave the device {device!r} out")
        return _open_onnx(text, threads)
    return _open_network(text, weights, device)


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
    limit = np.quantile(power[loud], 0.95) * 10 ** (-_QUIET_DB / 10)
    return float(np.count_nonzero(power >= limit) * _FRAME / SAMPLE_RATE)


def _open_onnx(path: str, threads: int | None) -> VoiceEmbedder:
    from mrl.runtime import OnnxEmbedder

    model = OnnxEmbedder(path, threads=threads)
    facts = model.metadata
    # The calibration travels with the file but was made with the network in single precision: int8 scores differ.
    kept = facts.get("calibration") if str(facts.get("precision", "fp32")).startswith("fp") else None
    calibration = None if kept is None else Calibration.from_dict(kept)
    return VoiceEmbedder(path, int(model.embed_dim), str(model.model_hash), calibration, model, model.mrl_dims)


def _open_network(spec: str, weights: str | os.PathLike[str] | None, device: str) -> VoiceEmbedder:
    import torch

    from mrl.embeddings import open_model, weights_sha256
    from mrl.evaluation.calibrating import load_calibration

    calibration = load_calibration(spec) if Path(spec).is_dir() else None
    network: Any = open_model(spec, weights=weights, device=device)

    def embed(waveform: Waveform) -> Embedding:
        with torch.inference_mode():
            embedding: Embedding = network(waveform).reshape(-1).float().cpu().numpy()
        return embedding

    dims = tuple(getattr(network, "mrl_dims", ()))
    return VoiceEmbedder(spec, int(network.embed_dim), weights_sha256(network), calibration, embed, dims)

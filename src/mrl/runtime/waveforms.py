"""Everything that a caller may pass as audio, brought to waveforms, without torch.

The same is accepted, and refused in the same words, as by the networks themselves (:mod:`mrl.backbone.waveforms`); what is padded
there goes its own way here, because an exported network takes recordings of one length at a time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mrl.errors import InputError

Waveform: TypeAlias = "npt.NDArray[np.float32]"
Audio: TypeAlias = "str | os.PathLike[str] | npt.NDArray[Any] | Sequence[str | os.PathLike[str] | npt.NDArray[Any]]"

_EXPECTED = "a path, a waveform (samples,), a batch (batch, samples) or (batch, 1, samples), or a list of waveforms"
_PCM_SCALE = {np.dtype(np.int16): 2.0**15, np.dtype(np.int32): 2.0**31}


def as_waveforms(audio: Any, *, sample_rate: int, minimum_samples: int) -> tuple[list[Waveform], bool]:
    """Bring ``audio`` to a list of waveforms (samples,) float32.

    Args:
        audio: a path, a waveform, a batch, or a list of paths and waveforms; 16- and 32-bit integers are taken as PCM.
        sample_rate: in Hz, for decoding paths.
        minimum_samples: shortest waveform allowed.

    Returns:
        The waveforms, and whether a single one came in (so that a single embedding goes out).

    Raises:
        InputError: unusable type, shape, length or non-finite samples.
        AudioLoadingError: a path that cannot be decoded.
    """
    if isinstance(audio, (list, tuple)):
        if not audio:
            raise InputError("audio is an empty list; expected at least one waveform")
        return [_one(item, f"item {place} of the list", sample_rate, minimum_samples) for place, item in enumerate(audio)], False
    batch = _floats(_loaded(audio, sample_rate))
    single = batch.ndim == 1
    if single:
        batch = batch[None]
    elif batch.ndim == 3 and batch.shape[1] == 1:
        batch = batch[:, 0]
    if batch.ndim != 2 or not len(batch):
        raise InputError(f"audio has the shape {batch.shape}; expected {_EXPECTED}")
    for waveform in batch:
        _check(waveform, "audio", sample_rate, minimum_samples)
    return list(batch), single


def _one(item: Any, what: str, sample_rate: int, minimum_samples: int) -> Waveform:
    waveform = _floats(_loaded(item, sample_rate))
    if waveform.ndim == 2 and len(waveform) == 1:
        waveform = waveform[0]
    if waveform.ndim != 1:
        raise InputError(f"{what} has the shape {waveform.shape}; expected a waveform (samples,)")
    _check(waveform, what, sample_rate, minimum_samples)
    return waveform


def _loaded(audio: Any, sample_rate: int) -> npt.NDArray[Any]:
    if isinstance(audio, (str, os.PathLike)):
        from mrl.audio import load_audio

        return load_audio(audio, sample_rate=sample_rate)
    if not hasattr(audio, "__array__"):  # tensors of other packages have it, too
        raise InputError(f"audio is a {type(audio).__name__}; expected {_EXPECTED}")
    return np.asarray(audio)


def _floats(samples: npt.NDArray[Any]) -> Waveform:
    scale = _PCM_SCALE.get(samples.dtype)
    if scale is None and samples.dtype.kind != "f":
        raise InputError(f"audio is an array of {samples.dtype}; expected float, or 16- or 32-bit PCM integers")
    floats = np.ascontiguousarray(samples, dtype=np.float32)
    return floats if scale is None else floats / np.float32(scale)


def _check(waveform: Waveform, what: str, sample_rate: int, minimum_samples: int) -> None:
    samples = len(waveform)
    if samples < minimum_samples:
        raise InputError(
            f"{what} has {samples} samples ({1000 * samples / sample_rate:.1f} ms at {sample_rate} Hz); the network needs at "
            f"least {minimum_samples} ({1000 * minimum_samples / sample_rate:.1f} ms), and reliable scores need seconds"
        )
    if not np.isfinite(waveform).all():
        raise InputError(f"{what} contains NaN or infinite samples; repair or drop this recording")

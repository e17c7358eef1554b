"""Everything that a caller may pass as audio, brought to one form: ``(batch, samples)`` float32 and lengths where they differ."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from mrl.errors import InputError

Audio: TypeAlias = "str | os.PathLike[str] | np.ndarray[Any, Any] | Tensor | Sequence[np.ndarray[Any, Any] | Tensor]"

_EXPECTED = "a path, a waveform (samples,), a batch (batch, samples) or (batch, 1, samples), or a list of waveforms"
_PCM_SCALE = {torch.int16: 2.0**15, torch.int32: 2.0**31}


def gradients(network: nn.Module, audio: Audio) -> torch.set_grad_enabled:
    """Return a context in which gradients are recorded only where they can be wanted.

    That is in training mode, and for tensors, as PyTorch has it. The embedding of a file or a NumPy array in evaluation mode can
    then be turned into a NumPy array as it is, and no memory is held for a backward pass.
    """
    parts = audio if isinstance(audio, (list, tuple)) else (audio,)
    wanted = network.training or any(isinstance(part, Tensor) for part in parts)
    return torch.set_grad_enabled(wanted and torch.is_grad_enabled())


def as_batch(
    audio: Audio, lengths: Tensor | Sequence[int] | None, *, sample_rate: int, minimum_samples: int, device: torch.device
) -> tuple[Tensor, Tensor | None, bool]:
    """Bring ``audio`` to a float32 batch on ``device``.

    Args:
        audio: a path (decoded at ``sample_rate`` Hz), a waveform ``(samples,)``, a batch ``(batch, samples)`` or
            ``(batch, 1, samples)`` as NumPy array or tensor, or a list of paths or waveforms of any lengths.
            16- and 32-bit integers are taken as PCM and scaled to [-1, 1].
        lengths: samples per item ``(batch,)`` where a batch is padded at the end.

    Returns:
        The batch ``(batch, samples)``, lengths ``(batch,)`` or None when all items are full, and whether a single
        waveform came in (so that a single embedding goes out).

    Raises:
        InputError: unusable type, shape, length or non-finite samples in an array.
        AudioLoadingError: a path that cannot be decoded.
    """
    if isinstance(audio, (str, os.PathLike)):
        audio = _load(audio, sample_rate)
    if isinstance(audio, (list, tuple)):
        if lengths is not None:
            raise InputError("lengths= goes with one padded batch (batch, samples); a list of waveforms carries its own lengths")
        return *_pad(audio, sample_rate, minimum_samples, device), False
    waveform = _as_tensor(audio, device)
    single = waveform.ndim == 1
    if single:
        waveform = waveform.unsqueeze(0)
    elif waveform.ndim == 3 and waveform.shape[1] == 1:
        waveform = waveform.squeeze(1)
    if waveform.ndim != 2 or waveform.shape[0] == 0:
        raise InputError(f"audio has the shape {tuple(waveform.shape)}; expected {_EXPECTED}")
    if waveform.shape[1] < minimum_samples:
        raise _too_short(waveform.shape[1], sample_rate, minimum_samples)
    counts = None if lengths is None else _checked_lengths(lengths, waveform, sample_rate, minimum_samples)
    if isinstance(audio, np.ndarray):
        _check_finite(waveform, counts)
    return waveform, counts, single


def _load(path: str | os.PathLike[str], sample_rate: int) -> np.ndarray[Any, Any]:
    from mrl.audio import load_audio

    return load_audio(path, sample_rate=sample_rate)


def _as_tensor(audio: Any, device: torch.device) -> Tensor:
    if isinstance(audio, np.ndarray):
        if audio.dtype.kind not in "fi":
            raise InputError(f"audio is an array of {audio.dtype}; expected {_EXPECTED} of real numbers")
        audio = torch.from_numpy(np.ascontiguousarray(audio))
    if not isinstance(audio, Tensor):
        raise InputError(f"audio is a {type(audio).__name__}; expected {_EXPECTED}")
    scale = _PCM_SCALE.get(audio.dtype)
    if scale is None and not audio.dtype.is_floating_point:
        raise InputError(f"audio is a tensor of {audio.dtype}; expected float, or 16- or 32-bit PCM integers")
    waveform = audio.to(device=device, dtype=torch.float32)
    return waveform if scale is None else waveform / scale


def _pad(items: Sequence[Any], sample_rate: int, minimum_samples: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
    if not items:
        raise InputError("audio is an empty list; expected at least one waveform")
    waveforms = []
    for position, item in enumerate(items):
        loaded = _load(item, sample_rate) if isinstance(item, (str, os.PathLike)) else item
        waveform = _as_tensor(loaded, device)
        if isinstance(loaded, np.ndarray):
            _check_finite(waveform, None, f"item {position} of the list")
        if waveform.ndim == 2 and waveform.shape[0] == 1:
            waveform = waveform.squeeze(0)
        if waveform.ndim != 1:
            raise InputError(f"item {position} of the list has the shape {tuple(waveform.shape)}; expected a waveform (samples,)")
        if waveform.shape[0] < minimum_samples:
            raise _too_short(waveform.shape[0], sample_rate, minimum_samples, f"item {position} of the list")
        waveforms.append(waveform)
    lengths = [waveform.shape[0] for waveform in waveforms]
    if min(lengths) == max(lengths):
        return torch.stack(waveforms), None
    batch = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    return batch, torch.tensor(lengths, device=device)


def _check_finite(waveform: Tensor, lengths: Tensor | None, what: str = "audio") -> None:
    # Arrays come from files and users, so a check is worth its time; tensors come from a loop that must not wait for it.
    good = torch.isfinite(waveform)
    if lengths is not None:
        good |= torch.arange(waveform.shape[1], device=waveform.device) >= lengths.unsqueeze(1)
    if not bool(good.all()):
        raise InputError(f"{what} contains NaN or infinite samples; repair or drop this recording")


def _checked_lengths(lengths: Tensor | Sequence[int], waveform: Tensor, sample_rate: int, minimum_samples: int) -> Tensor | None:
    counts = torch.as_tensor(lengths)
    if counts.dtype.is_floating_point or counts.dtype == torch.bool or counts.shape != waveform.shape[:1]:
        raise InputError(
            f"lengths has the shape {tuple(counts.shape)} and type {counts.dtype}; "
            f"expected whole numbers of samples, ({waveform.shape[0]},)"
        )
    if torch.compiler.is_compiling():
        # Looking at the values would break the graph in two; so in a compiled network lengths are believed.
        return counts.to(device=waveform.device, dtype=torch.int64)
    shortest, longest = int(counts.min()), int(counts.max())
    if longest > waveform.shape[1]:
        raise InputError(f"lengths goes up to {longest} samples, but the batch holds only {waveform.shape[1]}")
    if shortest < minimum_samples:
        raise _too_short(shortest, sample_rate, minimum_samples)
    return None if shortest == waveform.shape[1] else counts.to(device=waveform.device, dtype=torch.int64)


def _too_short(samples: int, sample_rate: int, minimum_samples: int, what: str = "audio") -> InputError:
    return InputError(
        f"{what} has {samples} samples ({1000 * samples / sample_rate:.1f} ms at {sample_rate} Hz); the network needs at least "
        f"{minimum_samples} ({1000 * minimum_samples / sample_rate:.1f} ms), and reliable scores need seconds"
    )

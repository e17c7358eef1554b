"""The front ends in operations that every runtime has: the Fourier transform as a convolution with fixed kernels.

Waveform ``(batch, samples)`` -> log-mel features before normalisation, ``(batch, frames, bands)``: what
:class:`mrl.backbone.frontend.LogMelFrontEnd` computes, to rounding. Bins that no filter uses are left out.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrl.backbone.frontend_config import FrontEndConfig

LOG_FLOOR = 1e-6
_DEVIATION_EPSILON = 1e-8


def normalised(signal: Tensor, epsilon: float) -> Tensor:
    """Bring waveforms ``(batch, samples)`` of one length to mean 0 and (biased) deviation 1."""
    centred = signal - signal.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True).sqrt() + epsilon)


def emphasised(signal: Tensor, share: float) -> Tensor:
    """Subtract ``share`` of the previous sample from each sample; the one before the first is the second."""
    return signal - share * torch.cat([signal[:, 1:2], signal[:, :-1]], dim=1)


class LogMelConvolutions(nn.Module):
    """``(batch, samples)`` -> ``(batch, frames, bands)``, not normalised over time; ``frames = 1 + samples // hop_length``."""

    kernels: Tensor
    filters: Tensor

    def __init__(self, config: FrontEndConfig, window: Tensor, filters: Tensor, taps: Tensor | None) -> None:
        super().__init__()
        self.config = config
        self.pre_emphasis = 0.0 if taps is None else -float(taps.flatten()[0])
        used = filters.abs().sum(dim=1).nonzero().flatten()
        self.register_buffer("kernels", fourier_kernels(window, used, config.n_fft))
        # Squares of cosine and sine part weigh alike, so one product with the filters twice adds them up as well.
        self.register_buffer("filters", filters[used].t().repeat(1, 2).unsqueeze(-1).contiguous())

    def forward(self, waveform: Tensor) -> Tensor:
        signal = waveform
        if self.config.normalise_signal:
            signal = normalised(signal, self.config.signal_epsilon)
        if self.pre_emphasis:
            signal = emphasised(signal, self.pre_emphasis)
        # Reflecting half a transform and dropping the zeros around the window is reflecting half a window.
        half = self.config.n_fft // 2 - (self.config.n_fft - self.config.window_length) // 2
        rest = self.config.window_length - half
        padded = functional.pad(signal.unsqueeze(1), (half, rest), mode="reflect")
        parts = functional.conv1d(padded, self.kernels, stride=self.config.hop_length)
        power = functional.conv1d(parts * parts, self.filters)
        return (power + LOG_FLOOR).log().transpose(1, 2)


class TimeNormalisation(nn.Module):
    """Normalise features ``(batch, frames, bands)`` per band over time, as the front end ends."""

    def __init__(self, kind: str, norm: nn.BatchNorm1d | None = None) -> None:
        super().__init__()
        self.kind, self.norm = kind, norm

    def forward(self, features: Tensor) -> Tensor:
        if self.norm is not None:
            normalised: Tensor = self.norm(features.transpose(1, 2)).transpose(1, 2)
            return normalised
        centred = features - features.mean(dim=1, keepdim=True)
        if self.kind == "mvn":
            others = torch.sym_max(features.shape[1] - 1, 1)  # type: ignore[no-untyped-call]
            centred = centred / ((centred.square().sum(dim=1, keepdim=True) / others).sqrt() + _DEVIATION_EPSILON)
        return centred


def fourier_kernels(window: Tensor, bins: Tensor, n_fft: int) -> Tensor:
    """Return convolution kernels ``(2 * bins, 1, window_length)``: cosine parts of the bins, then sine parts, windowed."""
    # Multiples of the full circle are taken off in whole numbers, so that the angles are exact.
    turns = (bins.unsqueeze(1) * torch.arange(len(window))) % n_fft
    angles = turns.to(torch.float64) * (2 * math.pi / n_fft)
    parts = torch.cat([angles.cos(), angles.sin()]) * window.double()
    return parts.float().unsqueeze(1).contiguous()


def log_mel_facts(config: FrontEndConfig) -> dict[str, Any]:
    """Return every parameter of the front end, for toolkits that compute features themselves."""
    return {
        "features": "log(mel power + log_floor), (batch, frames, bands), not normalised over time",
        "frames": "1 + samples // hop_length",
        "sample_rate": config.sample_rate,
        "signal_scale": "[-1, 1]",
        "normalise_signal": config.normalise_signal,
        "signal_epsilon": config.signal_epsilon if config.normalise_signal else None,
        "pre_emphasis": 0.97 if config.pre_emphasis else 0.0,
        "pre_emphasis_first_sample": "x[0] - 0.97 * x[1]" if config.pre_emphasis else None,
        "n_fft": config.n_fft,
        "window": "hamming, periodic",
        "window_length": config.window_length,
        "hop_length": config.hop_length,
        "centre": True,
        "padding": "reflect",
        "power": 2,
        "bands": config.bands,
        "mel_scale": "htk",
        "mel_norm": None,
        "lowest_frequency": config.lowest_frequency,
        "highest_frequency": config.highest_frequency,
        "log_floor": LOG_FLOOR,
        "normalisation_inside_the_network": config.normalisation,
    }

"""The log-mel front end of the second generation (official ``feat_type`` "tf"): other frames, window, filters.

The signal is normalised, emphasised and padded with half a hop of zeros at both ends; a frame is a symmetric Hamming window at
the start of the transform; the transform has no Nyquist bin and is a product with kernels that belong to the released files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mrl.backbone.convolutional import emphasised, log_mel_facts, normalised
from mrl.backbone.frontend import FrontEnd, frame_mask, pre_emphasis_taps
from mrl.backbone.frontend_config import FrontEndConfig, read_rest
from mrl.backbone.reading import ConfigReader


@dataclass(frozen=True)
class FourierFrontEndConfig(FrontEndConfig):
    """As :class:`FrontEndConfig`; ``signal_epsilon`` also bounds power and mel power, and is added before the logarithm."""

    signal_epsilon: float = 1e-8

    def to_spec_params(self) -> dict[str, Any]:
        """Return the official ``spec_params``, every key spelled out."""
        values = super().to_spec_params() | {"eps": self.signal_epsilon}
        return {key: value for key, value in values.items() if key not in ("spec_norm", "num_apply_spec_aug")}


def read_fourier_front_end(spec_params: Mapping[str, Any], where: str, bands: int, hop_length: int) -> FourierFrontEndConfig:
    """Read the official ``spec_params``; errors begin with ``where``.

    Raises:
        ConfigError: an unknown key, or a value that the official front end cannot have.
    """
    reader = ConfigReader(spec_params, where)
    floor = reader.number("eps", 1e-8, 1e-30, 1.0)
    return FourierFrontEndConfig(signal_epsilon=floor, **read_rest(reader, bands, hop_length, shortest_window=2))


class FourierFrontEnd(FrontEnd):
    """``(batch, samples)`` -> ``(batch, frames, bands)``, ``frames = (samples + 2 * (hop // 2) - window) // hop + 1``."""

    real_kernels: Tensor
    imaginary_kernels: Tensor
    filters: Tensor

    def __init__(self, config: FourierFrontEndConfig) -> None:
        super().__init__(config)
        self.register_buffer("pre_emphasis_filter", pre_emphasis_taps() if config.pre_emphasis else None)
        real, imaginary = windowed_kernels(config.window_length, config.n_fft)
        self.register_buffer("real_kernels", real)
        self.register_buffer("imaginary_kernels", imaginary)
        self.register_buffer("filters", warped_filters(config))

    def as_convolutions(self) -> FourierConvolutions:
        return FourierConvolutions(self)

    def facts(self) -> dict[str, Any]:
        config = self.config
        return log_mel_facts(config) | {
            "features": "log(mel power + log_floor), (batch, frames, bands), not normalised over time; power and mel power are "
            "bounded by log_floor and 1 / log_floor",
            "frames": "(samples + 2 * (hop_length // 2) - window_length) // hop_length + 1",
            "window": "hamming, symmetric, at the start of the transform",
            "centre": False,
            "padding": "hop_length // 2 zeros at both ends",
            "bins": "n_fft // 2, without Nyquist's, as if spread evenly from 0 to half the sample rate",
            "mel_scale": "htk, triangles over mel",
            "log_floor": config.signal_epsilon,
        }

    def samples_for(self, frames: int) -> int:
        """Return the fewest samples that give this number of frames; emphasising the first sample needs a second."""
        config = self.config
        return max(2, config.window_length - 2 * (config.hop_length // 2) + (frames - 1) * config.hop_length)

    def num_frames(self, samples: Tensor) -> Tensor:
        """Return how many frames waveforms of that many samples give."""
        config = self.config
        return (samples + 2 * (config.hop_length // 2) - config.window_length) // config.hop_length + 1

    def log_mel(self, signal: Tensor, lengths: Tensor | None = None) -> Tensor:
        config, floor = self.config, self.config.signal_epsilon
        if lengths is not None:
            signal = torch.where(frame_mask(lengths, signal.shape[1]), signal, 0.0)
        margin = config.hop_length // 2
        frames = functional.pad(signal, (margin, margin)).unfold(-1, config.window_length, config.hop_length)
        power = self.power(frames).clamp(floor, 1 / floor)
        return ((power @ self.filters).clamp(floor, 1 / floor) + floor).log()

    def power(self, frames: Tensor) -> Tensor:
        """Return the power spectrum ``(batch, frames, n_fft // 2)`` of frames ``(batch, frames, window)``."""
        return (frames @ self.real_kernels.t()).square() + (frames @ self.imaginary_kernels.t()).square()


class FourierConvolutions(nn.Module):
    """FourierFrontEnd without the normalisation over time, as convolutions; bins that no filter uses are left out."""

    kernels: Tensor
    filters: Tensor

    def __init__(self, front_end: FourierFrontEnd) -> None:
        super().__init__()
        self.config = front_end.config
        taps = front_end.pre_emphasis_filter
        self.pre_emphasis = 0.0 if taps is None else -float(taps.flatten()[0])
        used = front_end.filters.abs().sum(dim=1).nonzero().flatten()
        self.bins = len(used)
        parts = (front_end.real_kernels[used], front_end.imaginary_kernels[used])
        self.register_buffer("kernels", torch.cat(parts).unsqueeze(1).contiguous())
        self.register_buffer("filters", front_end.filters[used].t().unsqueeze(-1).contiguous())

    def forward(self, waveform: Tensor) -> Tensor:
        config, floor = self.config, self.config.signal_epsilon
        signal = waveform
        if config.normalise_signal:
            signal = normalised(signal, floor)
        if self.pre_emphasis:
            signal = emphasised(signal, self.pre_emphasis)
        margin = config.hop_length // 2
        parts = functional.conv1d(signal.unsqueeze(1), self.kernels, stride=config.hop_length, padding=margin)
        power = (parts[:, : self.bins].square() + parts[:, self.bins :].square()).clamp(floor, 1 / floor)
        mel = functional.conv1d(power, self.filters).clamp(floor, 1 / floor)
        return (mel + floor).log().transpose(1, 2)


def windowed_kernels(window_length: int, n_fft: int) -> tuple[Tensor, Tensor]:
    """Return the cosine and the sine part of every bin but Nyquist's, ``(n_fft // 2, window_length)``, under a Hamming window."""
    position = np.arange(window_length)
    window = (0.54 - 0.46 * np.cos(2 * np.pi * position / (window_length - 1))).astype(np.float32)
    turns = np.outer(np.arange(n_fft // 2), position) / n_fft
    parts = (np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns))
    real, imaginary = (torch.from_numpy(part.astype(np.float32) * window) for part in parts)
    return real, imaginary


def warped_filters(config: FrontEndConfig) -> Tensor:
    """Return filters ``(n_fft // 2, bands)`` that are triangles over mel (not over Hz), peak 1.

    The official code spreads its bins over 0 to half the sample rate as if the last one were Nyquist's. The first has no filter.
    """

    def to_mel(hertz: Any) -> Any:
        return 2595.0 * np.log10(1.0 + hertz / 700.0)

    corners = np.linspace(to_mel(config.lowest_frequency), to_mel(config.highest_frequency), config.bands + 2)
    bins = to_mel(np.linspace(0, config.sample_rate // 2, config.n_fft // 2))[:, None]
    widths = np.diff(corners)
    rising, falling = (bins - corners[:-2]) / widths[:-1], (corners[2:] - bins) / widths[1:]
    filters = np.maximum(0.0, np.minimum(rising, falling))
    filters[0] = 0.0
    return torch.from_numpy(filters.astype(np.float32))

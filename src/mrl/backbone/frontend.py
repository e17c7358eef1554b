"""Waveform to log-mel features, as the official front end computes them, without torchaudio.

Pre-emphasis, power mel spectrogram (centred, reflected ends, periodic Hamming window, HTK mel scale, no filter normalisation),
logarithm, normalisation per band over time. Always in float32 and without gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrl.backbone.config import FrontEndConfig
from mrl.backbone.spec_augment import SpecAugment

_LOG_FLOOR = 1e-6
_SIGNAL_EPSILON = 1e-6
_DEVIATION_EPSILON = 1e-8
_PRE_EMPHASIS = 0.97


def mel_filters(bands: int, n_fft: int, sample_rate: int, lowest: float, highest: float) -> Tensor:
    """Return triangular filters on the HTK mel scale, ``(n_fft // 2 + 1, bands)``, peak 1, frequencies in Hz."""

    def to_mel(hertz: float) -> float:
        return 2595.0 * math.log10(1.0 + hertz / 700.0)

    bins = torch.linspace(0, sample_rate // 2, n_fft // 2 + 1)
    corners_mel = torch.linspace(to_mel(lowest), to_mel(highest), bands + 2)
    corners = 700.0 * (10.0 ** (corners_mel / 2595.0) - 1.0)
    widths = corners.diff()
    distance = corners[None, :] - bins[:, None]
    rising = -distance[:, :-2] / widths[:-1]
    falling = distance[:, 2:] / widths[1:]
    return torch.minimum(rising, falling).clamp(min=0.0)


class LogMelFrontEnd(nn.Module):
    """``(batch, samples)`` -> ``(batch, frames, bands)``, with ``frames = 1 + samples // hop_length``."""

    window: Tensor
    filters: Tensor
    pre_emphasis_filter: Tensor | None

    def __init__(self, config: FrontEndConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("window", torch.hamming_window(config.window_length, periodic=True))
        filters = mel_filters(config.bands, config.n_fft, config.sample_rate, config.lowest_frequency, config.highest_frequency)
        self.register_buffer("filters", filters)
        taps = torch.tensor([-_PRE_EMPHASIS, 1.0]).reshape(1, 1, 2) if config.pre_emphasis else None
        self.register_buffer("pre_emphasis_filter", taps)
        self.norm = nn.BatchNorm1d(config.bands) if config.normalisation == "bn" else None
        # Set for training only; what the configuration says of SpecAugment is how a released network was trained.
        self.spec_augment: SpecAugment | None = None
        # All of this runs without gradient, so scale and shift of that norm stay as loaded; its statistics follow the data.
        self.requires_grad_(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LogMelFrontEnd:
        # ``model.half()`` must not round the filters: this part computes in float32 whatever the network does.
        exact = {name: tensor.detach() for name, tensor in self._tensors()}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, tensor in self._tensors():
            if tensor.dtype != exact[name].dtype:
                tensor.data = exact[name].to(tensor.device)
        return self

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.named_parameters()
        yield from self.named_buffers()

    def num_frames(self, samples: Tensor) -> Tensor:
        """Return how many frames waveforms of that many samples give."""
        return samples // self.config.hop_length + 1

    @torch.no_grad()
    def forward(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Compute normalised log-mel features in float32.

        Args:
            waveform: ``(batch, samples)``; what lies beyond an item's length is ignored.
            lengths: ``(batch,)`` samples per item, or None when all are full.

        Returns:
            ``(batch, frames, bands)``; frames beyond an item's own are zero.
        """
        with torch.autocast(device_type=waveform.device.type, enabled=False):
            signal = waveform.float()
            if self.config.normalise_signal:
                signal = _normalise_signal(signal, lengths)
            if self.pre_emphasis_filter is not None:
                previous = torch.cat([signal[:, 1:2], signal[:, :-1]], dim=1)
                past, present = self.pre_emphasis_filter.flatten().unbind()
                signal = present * signal + past * previous
            half = self.config.n_fft // 2
            if lengths is None:
                padded = functional.pad(signal.unsqueeze(1), (half, half), mode="reflect").squeeze(1)
            else:
                padded = _reflect_ends(signal, lengths, half)
            margin = (self.config.n_fft - self.config.window_length) // 2
            # The window is centred in the transform; its power does not depend on where the zeros stand.
            frames = padded[:, margin : padded.shape[1] - margin].unfold(-1, self.config.window_length, self.config.hop_length)
            num_frames = waveform.shape[1] // self.config.hop_length + 1
            spectrum = torch.fft.rfft(frames[:, :num_frames] * self.window, n=self.config.n_fft)
            power = torch.view_as_real(spectrum).square().sum(dim=-1)
            features = (power @ self.filters + _LOG_FLOOR).log()
            features = self._normalise(features, None if lengths is None else self.num_frames(lengths))
            if self.training and self.config.spec_augment:
                for _ in range(self.config.spec_augment_repeats):
                    features = self._mask_randomly(features)
            return features if self.spec_augment is None else self.spec_augment(features)

    def _normalise(self, features: Tensor, num_frames: Tensor | None) -> Tensor:
        if num_frames is None:
            inside, count = None, torch.full((1, 1, 1), features.shape[1], dtype=features.dtype, device=features.device)
        else:
            inside = frame_mask(num_frames, features.shape[1]).unsqueeze(-1)
            count = num_frames.reshape(-1, 1, 1).to(features.dtype)
            features = torch.where(inside, features, 0.0)
        if self.norm is not None:
            features = self.norm(features.transpose(1, 2)).transpose(1, 2)
        else:
            features = features - features.sum(dim=1, keepdim=True) / count
            if self.config.normalisation == "mvn":
                squares = features.square() if inside is None else torch.where(inside, features, 0.0).square()
                deviation = (squares.sum(dim=1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
                features = features / (deviation + _DEVIATION_EPSILON)
        return features if inside is None else torch.where(inside, features, 0.0)

    def _mask_randomly(self, features: Tensor) -> Tensor:
        """Set one random band range and one random frame range of every item to zero (SpecAugment, arXiv 1904.08779)."""
        for axis, (low, high) in ((1, self.config.frame_mask_width), (2, self.config.band_mask_width)):
            size = features.shape[axis]
            batch = features.shape[0]
            width = torch.randint(low, high, (batch, 1), device=features.device)
            first = self.config.spec_augment_lowest_band
            last = max(first + 1, size - high)
            start = torch.randint(first, last, (batch, 1), device=features.device)
            position = torch.arange(size, device=features.device)
            hidden = (position >= start) & (position < start + width)
            features = features.masked_fill(hidden.unsqueeze(2 if axis == 1 else 1), 0.0)
        return features


def frame_mask(num_frames: Tensor, total: int) -> Tensor:
    """Return ``(batch, total)`` booleans, true for each item's own frames."""
    return torch.arange(total, device=num_frames.device) < num_frames.unsqueeze(1)


def _normalise_signal(signal: Tensor, lengths: Tensor | None) -> Tensor:
    if lengths is None:
        return (signal - signal.mean(dim=1, keepdim=True)) / (signal.std(dim=1, keepdim=True, unbiased=False) + _SIGNAL_EPSILON)
    inside = frame_mask(lengths, signal.shape[1])
    count = lengths.unsqueeze(1).to(signal.dtype)
    centred = signal - torch.where(inside, signal, 0.0).sum(dim=1, keepdim=True) / count
    deviation = (torch.where(inside, centred, 0.0).square().sum(dim=1, keepdim=True) / count).sqrt()
    return centred / (deviation + _SIGNAL_EPSILON)


def _reflect_ends(signal: Tensor, lengths: Tensor, margin: int) -> Tensor:
    """Reflect every item at its own two ends; ``(batch, samples)`` -> ``(batch, samples + 2 * margin)``, zero beyond."""
    position = torch.arange(-margin, signal.shape[1] + margin, device=signal.device).abs().unsqueeze(0)
    last = lengths.unsqueeze(1) - 1
    source = torch.where(position > last, 2 * last - position, position)
    inside = position < lengths.unsqueeze(1) + margin
    gathered = signal.gather(1, source.clamp(min=0, max=signal.shape[1] - 1))
    return torch.where(inside, gathered, 0.0)

"""Waveform to log-mel features, as the official front end computes them, without torchaudio.

Pre-emphasis, power mel spectrogram (centred, reflected ends, periodic Hamming window, HTK mel scale, no filter normalisation),
logarithm, normalisation per band over time. Always in float32 and without gradient.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrl.backbone.convolutional import LogMelConvolutions, TimeNormalisation, log_mel_facts
from mrl.backbone.frontend_config import FrontEndConfig
from mrl.errors import InputError

_LOG_FLOOR = 1e-6
_DEVIATION_EPSILON = 1e-8
_PRE_EMPHASIS = 0.97


def mel_filters(bands: int, n_fft: int, sample_rate: int, lowest: float, highest: float) -> Tensor:
    """Return triangular filters on the HTK mel scale, ``(n_fft // 2 + 1, bands)``, peak 1, frequencies in Hz."""

    if torch.get_default_device().type == "meta":  # shapes only: arithmetic there would import PyTorch's compiler (3 s)
        return torch.empty(n_fft // 2 + 1, bands)

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


class SpecAugment(nn.Module):
    """Masks log-mel features ``(batch, frames, bands)`` while the network trains, every item differently.

    As in Park et al., "SpecAugment", Interspeech 2019, https://arxiv.org/abs/1904.08779 (masks only, no time warping).

    What is hidden becomes 0, the mean of features that are normalised over time. Each mask's width is drawn evenly from 0 to the
    most, its place evenly from where it fits. The random numbers are those that :meth:`drawn` gives; without such, torch's global
    generator of the features' device gives them in training mode, and in eval mode nothing is masked.

    It has neither parameters nor buffers, so that a network has the same ``state_dict`` with and without it.

    Args:
        frequency_masks, frequency_width: how many masks over bands, and the most bands of each.
        time_masks, time_width: how many masks over time, and the most frames of each.

    Raises:
        InputError: a number is negative.
    """

    def __init__(self, *, frequency_masks: int = 0, frequency_width: int = 8, time_masks: int = 0, time_width: int = 20) -> None:
        super().__init__()
        if min(frequency_masks, frequency_width, time_masks, time_width) < 0:
            raise InputError(
                f"SpecAugment: {frequency_masks} masks of {frequency_width} bands and {time_masks} of {time_width} frames, "
                "expected 0 or more of each"
            )
        self.frequency_masks = frequency_masks
        self.frequency_width = frequency_width
        self.time_masks = time_masks
        self.time_width = time_width
        self._given: Tensor | None = None

    @property
    def numbers_per_item(self) -> int:
        """How many random numbers the masks of one item take."""
        return 2 * (self.time_masks + self.frequency_masks)

    @contextlib.contextmanager
    def drawn(self, numbers: Tensor) -> Iterator[None]:
        """Mask by these random numbers while the block runs, in eval mode too: a frozen backbone is always in that.

        Numbers that belong to the items make the masks the same in any batch.

        Args:
            numbers: ``(batch, numbers_per_item)`` float32, from 0 to below 1, for the batch of every forward pass in the block.
        """
        self._given = numbers
        try:
            yield
        finally:
            self._given = None

    def forward(self, features: Tensor) -> Tensor:
        """Return masked features ``(batch, frames, bands)``, or the very same ones where nothing is to be masked."""
        numbers = self._given
        if numbers is None:
            if not self.training:
                return features
            numbers = torch.rand(features.shape[0], self.numbers_per_item, device=features.device)
        _, frames, bands = features.shape
        border = 2 * self.time_masks
        in_time = _hidden(frames, numbers[:, :border], self.time_width)
        in_frequency = _hidden(bands, numbers[:, border:], self.frequency_width)
        return features.masked_fill(in_time[:, :, None] | in_frequency[:, None, :], 0.0)

    def extra_repr(self) -> str:
        return (
            f"frequency_masks={self.frequency_masks}, frequency_width={self.frequency_width}, "
            f"time_masks={self.time_masks}, time_width={self.time_width}"
        )


class FrontEnd(nn.Module):
    """Waveform ``(batch, samples)`` -> features ``(batch, frames, bands)``, in float32 and without gradient."""

    config: FrontEndConfig
    pre_emphasis_filter: Tensor | None

    def __init__(self, config: FrontEndConfig) -> None:
        super().__init__()
        self.config = config
        # Set for training only; what the configuration says of SpecAugment is how a released network was trained.
        self.spec_augment: SpecAugment | None = None

    @property
    def minimum_samples(self) -> int:
        """The shortest waveform that gives a frame, in samples."""
        return self.samples_for(1)

    def samples_for(self, frames: int) -> int:
        """Return the fewest samples that give this number of frames."""
        raise NotImplementedError

    def num_frames(self, samples: Tensor) -> Tensor:
        """Return how many frames waveforms of that many samples give."""
        raise NotImplementedError

    def as_convolutions(self) -> nn.Module:
        """Return a module from waveforms ``(batch, samples)`` to log-mel features before their normalisation, to be exported."""
        raise NotImplementedError

    def time_normalisation(self) -> TimeNormalisation:
        """Return the module that normalises what :meth:`as_convolutions` gives, to be exported."""
        return TimeNormalisation(self.config.normalisation)

    def facts(self) -> dict[str, Any]:
        """Return every parameter, for toolkits that compute features themselves."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Compute log-mel features, normalised over time, in float32.

        Args:
            waveform: ``(batch, samples)``; what lies beyond an item's length is ignored.
            lengths: ``(batch,)`` samples per item, or None when all are full.

        Returns:
            ``(batch, frames, bands)``; frames beyond an item's own are zero.
        """
        with torch.autocast(device_type=waveform.device.type, enabled=False):
            signal = waveform.float()
            if self.config.normalise_signal:
                signal = normalise_signal(signal, lengths, self.config.signal_epsilon)
            if self.pre_emphasis_filter is not None:
                signal = emphasise(signal, self.pre_emphasis_filter)
            features = self.log_mel(signal, lengths)
            return self.mask_in_training(self.normalise_in_time(features, None if lengths is None else self.num_frames(lengths)))

    def log_mel(self, signal: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return log-mel features ``(batch, frames, bands)`` of emphasised waveforms ``(batch, samples)``, not normalised."""
        raise NotImplementedError

    def normalise_in_time(self, features: Tensor, num_frames: Tensor | None) -> Tensor:
        """Normalise log-mel features ``(batch, frames, bands)`` per band over each item's own frames; the others become zero."""
        inside, features, count = own_frames(features, num_frames)
        features = features - features.sum(dim=1, keepdim=True) / count
        return features if inside is None else torch.where(inside, features, 0.0)

    def mask_in_training(self, features: Tensor) -> Tensor:
        """SpecAugment as the network's configuration has it (in training mode), and as a run has set it."""
        if self.training and self.config.spec_augment:
            for _ in range(self.config.spec_augment_repeats):
                features = self._mask_randomly(features)
        return features if self.spec_augment is None else self.spec_augment(features)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrontEnd:
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


class LogMelFrontEnd(FrontEnd):
    """``(batch, samples)`` -> ``(batch, frames, bands)``, with ``frames = 1 + samples // hop_length``."""

    window: Tensor
    filters: Tensor

    def __init__(self, config: FrontEndConfig) -> None:
        super().__init__(config)
        self.register_buffer("window", torch.hamming_window(config.window_length, periodic=True))
        filters = mel_filters(config.bands, config.n_fft, config.sample_rate, config.lowest_frequency, config.highest_frequency)
        self.register_buffer("filters", filters)
        self.register_buffer("pre_emphasis_filter", pre_emphasis_taps() if config.pre_emphasis else None)
        self.norm = nn.BatchNorm1d(config.bands) if config.normalisation == "bn" else None
        # All of this runs without gradient, so scale and shift of that norm stay as loaded; its statistics follow the data.
        self.requires_grad_(False)

    def samples_for(self, frames: int) -> int:
        """Return the fewest samples that give this many frames; reflecting half a transform needs one more than that half."""
        return max(self.config.n_fft // 2 + 1, (frames - 1) * self.config.hop_length)

    def as_convolutions(self) -> LogMelConvolutions:
        return LogMelConvolutions(self.config, self.window, self.filters, self.pre_emphasis_filter)

    def time_normalisation(self) -> TimeNormalisation:
        return TimeNormalisation(self.config.normalisation, self.norm)

    def facts(self) -> dict[str, Any]:
        return log_mel_facts(self.config)

    def num_frames(self, samples: Tensor) -> Tensor:
        """Return how many frames waveforms of that many samples give."""
        return samples // self.config.hop_length + 1

    def log_mel(self, signal: Tensor, lengths: Tensor | None = None) -> Tensor:
        half = self.config.n_fft // 2
        if lengths is None:
            padded = functional.pad(signal.unsqueeze(1), (half, half), mode="reflect").squeeze(1)
        else:
            padded = _reflect_ends(signal, lengths, half)
        margin = (self.config.n_fft - self.config.window_length) // 2
        # The window is centred in the transform; its power does not depend on where the zeros are.
        frames = padded[:, margin : padded.shape[1] - margin].unfold(-1, self.config.window_length, self.config.hop_length)
        num_frames = signal.shape[1] // self.config.hop_length + 1
        spectrum = torch.fft.rfft(frames[:, :num_frames] * self.window, n=self.config.n_fft)
        power = torch.view_as_real(spectrum).square().sum(dim=-1)
        return (power @ self.filters + _LOG_FLOOR).log()

    def normalise_in_time(self, features: Tensor, num_frames: Tensor | None) -> Tensor:
        """Normalise as ``spec_norm`` says: by the mean, by mean and deviation, or by a BatchNorm; padding becomes zero."""
        inside, features, count = own_frames(features, num_frames)
        if self.norm is not None:
            features = self.norm(features.transpose(1, 2)).transpose(1, 2)
        else:
            features = features - features.sum(dim=1, keepdim=True) / count
            if self.config.normalisation == "mvn":
                squares = features.square() if inside is None else torch.where(inside, features, 0.0).square()
                deviation = (squares.sum(dim=1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
                features = features / (deviation + _DEVIATION_EPSILON)
        return features if inside is None else torch.where(inside, features, 0.0)


def frame_mask(num_frames: Tensor, total: int) -> Tensor:
    """Return ``(batch, total)`` booleans, true for each item's own frames."""
    return torch.arange(total, device=num_frames.device) < num_frames.unsqueeze(1)


def own_frames(features: Tensor, num_frames: Tensor | None) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return which frames are an item's own ``(batch, frames, 1)`` or None, the features with others zero, and their number."""
    if num_frames is None:
        return None, features, torch.full((1, 1, 1), features.shape[1], dtype=features.dtype, device=features.device)
    inside = frame_mask(num_frames, features.shape[1]).unsqueeze(-1)
    return inside, torch.where(inside, features, 0.0), num_frames.reshape(-1, 1, 1).to(features.dtype)


def pre_emphasis_taps() -> Tensor:
    """Return the official filter, ``(1, 1, 2)``: weights of the sample before and of the sample itself."""
    return torch.tensor([-_PRE_EMPHASIS, 1.0]).reshape(1, 1, 2)


def emphasise(signal: Tensor, taps: Tensor) -> Tensor:
    """Pre-emphasis of ``(batch, samples)``; the sample before the first is the second (reflection)."""
    previous = torch.cat([signal[:, 1:2], signal[:, :-1]], dim=1)
    past, present = taps.flatten().unbind()
    return present * signal + past * previous


def normalise_signal(signal: Tensor, lengths: Tensor | None, epsilon: float) -> Tensor:
    """Bring each waveform to mean 0 and (biased) deviation 1 over its own samples."""
    if lengths is None:
        return (signal - signal.mean(dim=1, keepdim=True)) / (signal.std(dim=1, keepdim=True, unbiased=False) + epsilon)
    inside = frame_mask(lengths, signal.shape[1])
    count = lengths.unsqueeze(1).to(signal.dtype)
    centred = signal - torch.where(inside, signal, 0.0).sum(dim=1, keepdim=True) / count
    deviation = (torch.where(inside, centred, 0.0).square().sum(dim=1, keepdim=True) / count).sqrt()
    return centred / (deviation + epsilon)


def _reflect_ends(signal: Tensor, lengths: Tensor, margin: int) -> Tensor:
    """Reflect every item at its own two ends; ``(batch, samples)`` -> ``(batch, samples + 2 * margin)``, zero beyond."""
    position = torch.arange(-margin, signal.shape[1] + margin, device=signal.device).abs().unsqueeze(0)
    last = lengths.unsqueeze(1) - 1
    source = torch.where(position > last, 2 * last - position, position)
    inside = position < lengths.unsqueeze(1) + margin
    gathered = signal.gather(1, source.clamp(min=0, max=signal.shape[1] - 1))
    return torch.where(inside, gathered, 0.0)


def _hidden(size: int, numbers: Tensor, most: int) -> Tensor:
    """Return ``(batch, size)`` booleans, true inside any of the stretches of at most ``most``.

    ``numbers`` ``(batch, 2 * stretches)``: those of the widths, then those of the places.
    """
    for_width, for_place = numbers.unsqueeze(2).chunk(2, dim=1)
    width = (for_width * (min(most, size) + 1)).long()
    start = (for_place * (size - width + 1)).long()
    position = torch.arange(size, device=numbers.device)
    return ((position >= start) & (position < start + width)).any(dim=1)

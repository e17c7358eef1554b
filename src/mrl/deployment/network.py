"""A network in the form in which it is exported: no masks, no grouping, the front end as convolutions."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrl.backbone import Backbone, FrontEndConfig
from mrl.backbone.folding import Kernel
from mrl.backbone.frontend import LogMelFrontEnd
from mrl.backbone.layers import MapNorm, SelfAttention
from mrl.matryoshka import ReDimNetMRL

# Layers in the form in which other runtimes are fast: plain BatchNorm, wider groups, attention head by head.
#
# Each computes what the layer does that it replaces, to rounding.


# Runtimes have fast kernels for groups as wide as a vector register and none for groups of four; measured for b2 with AVX-512.
_GROUP_INPUTS = 16


class AttentionByHead(nn.Module):
    """SelfAttention with the products over pairs of frames written out, one head after the other.

    Runtimes without a fused attention keep those ``(batch, frames, frames)`` numbers in memory: for one head at a time instead of
    for all. There is nothing to reshape either, so this costs no time.
    """

    def __init__(self, source: SelfAttention) -> None:
        super().__init__()
        features = source.output.in_features
        self.num_heads = source.num_heads
        self.size = features // source.num_heads
        self.query_key_value, self.output = source.query_key_value, source.output
        with torch.no_grad():
            self.query_key_value.weight[:features] *= self.size**-0.5
            self.query_key_value.bias[:features] *= self.size**-0.5

    def forward(self, signal: Tensor, mask: Tensor | None = None) -> Tensor:
        parts = torch.split(self.query_key_value(signal), self.size, dim=2)
        count = self.num_heads
        heads = []
        for query, key, value in zip(parts[:count], parts[count : 2 * count], parts[2 * count :], strict=True):
            weights = torch.matmul(query, key.transpose(1, 2)).softmax(dim=-1)
            heads.append(torch.matmul(weights, value))
        result: Tensor = self.output(torch.cat(heads, dim=2))
        return result


def for_other_runtimes(module: nn.Module, *, fused_attention: bool) -> nn.Module:
    """Replace layers below ``module``, in place, and return it.

    Args:
        module: on the CPU; its layers may be taken over and changed.
        fused_attention: leave attention to PyTorch's own operation, for runtimes that have it.
    """
    for name, child in module.named_children():
        if isinstance(child, MapNorm):
            setattr(module, name, plain_norm(child))
        elif isinstance(child, SelfAttention) and not fused_attention:
            setattr(module, name, AttentionByHead(child))
        elif isinstance(child, nn.Conv2d):
            setattr(module, name, with_wide_groups(child))
        else:
            for_other_runtimes(child, fused_attention=fused_attention)
    return module


def plain_norm(norm: MapNorm) -> nn.BatchNorm2d:
    """Return the norm without its fast way for eager PyTorch, which would only hide a BatchNorm from other runtimes."""
    plain = nn.BatchNorm2d(norm.num_features, eps=norm.eps)
    plain.load_state_dict(norm.state_dict())
    return plain.eval()


def with_wide_groups(conv: nn.Conv2d) -> nn.Conv2d:
    """Return the convolution with groups merged to up to 16 inputs, zeros between what was apart.

    Convolutions with one output per group stay: depthwise ones are fast, and the others are computed as depthwise ones.
    """
    if conv.groups in (1, conv.out_channels):
        return conv
    kernel = Kernel.of(conv).merged(_GROUP_INPUTS)
    if kernel.groups == conv.groups:
        return conv
    height, width = conv.kernel_size
    wide = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        (height, width),
        padding=(height // 2, width // 2),
        groups=kernel.groups,
        bias=conv.bias is not None,
    )
    with torch.no_grad():
        wide.weight.copy_(kernel.weight)
        if wide.bias is not None:
            wide.bias.copy_(kernel.bias)
    return wide


# The log-mel front end in operations that every runtime has: the Fourier transform as a convolution with fixed kernels.
#
# Waveform ``(batch, samples)`` -> log-mel features before normalisation, ``(batch, frames, bands)``: what
# :class:`mrl.backbone.frontend.LogMelFrontEnd` computes, to rounding. Bins that no filter uses are left out.


LOG_FLOOR = 1e-6


SIGNAL_EPSILON = 1e-6


DEVIATION_EPSILON = 1e-8


class ConvolutionalLogMel(nn.Module):
    """``(batch, samples)`` -> ``(batch, frames, bands)``, not normalised over time; ``frames = 1 + samples // hop_length``."""

    kernels: Tensor
    filters: Tensor

    def __init__(self, front_end: LogMelFrontEnd) -> None:
        super().__init__()
        config = front_end.config
        self.config = config
        taps = front_end.pre_emphasis_filter
        self.pre_emphasis = 0.0 if taps is None else -float(taps.flatten()[0])
        used = front_end.filters.abs().sum(dim=1).nonzero().flatten()
        self.register_buffer("kernels", fourier_kernels(front_end.window, used, config.n_fft))
        # Squares of cosine and sine part weigh alike, so one product with the filters twice adds them up as well.
        self.register_buffer("filters", front_end.filters[used].t().repeat(1, 2).unsqueeze(-1).contiguous())

    def forward(self, waveform: Tensor) -> Tensor:
        signal = waveform
        if self.config.normalise_signal:
            centred = signal - signal.mean(dim=1, keepdim=True)
            signal = centred / (centred.square().mean(dim=1, keepdim=True).sqrt() + SIGNAL_EPSILON)
        if self.pre_emphasis:
            signal = signal - self.pre_emphasis * torch.cat([signal[:, 1:2], signal[:, :-1]], dim=1)
        # Reflecting half a transform and dropping the zeros around the window is reflecting half a window.
        half = self.config.n_fft // 2 - (self.config.n_fft - self.config.window_length) // 2
        rest = self.config.window_length - half
        padded = functional.pad(signal.unsqueeze(1), (half, rest), mode="reflect")
        parts = functional.conv1d(padded, self.kernels, stride=self.config.hop_length)
        power = functional.conv1d(parts * parts, self.filters)
        return (power + LOG_FLOOR).log().transpose(1, 2)


class TimeNormalisation(nn.Module):
    """Normalise features ``(batch, frames, bands)`` per band over time, as the front end ends."""

    def __init__(self, front_end: LogMelFrontEnd) -> None:
        super().__init__()
        self.kind = front_end.config.normalisation
        self.norm = front_end.norm

    def forward(self, features: Tensor) -> Tensor:
        if self.norm is not None:
            normalised: Tensor = self.norm(features.transpose(1, 2)).transpose(1, 2)
            return normalised
        centred = features - features.mean(dim=1, keepdim=True)
        if self.kind == "mvn":
            others = torch.sym_max(features.shape[1] - 1, 1)  # type: ignore[no-untyped-call]
            centred = centred / ((centred.square().sum(dim=1, keepdim=True) / others).sqrt() + DEVIATION_EPSILON)
        return centred


def fourier_kernels(window: Tensor, bins: Tensor, n_fft: int) -> Tensor:
    """Return convolution kernels ``(2 * bins, 1, window_length)``: cosine parts of the bins, then sine parts, windowed."""
    # Multiples of the full circle are taken off in whole numbers, so that the angles are exact.
    turns = (bins.unsqueeze(1) * torch.arange(len(window))) % n_fft
    angles = turns.to(torch.float64) * (2 * math.pi / n_fft)
    parts = torch.cat([angles.cos(), angles.sin()]) * window.double()
    return parts.float().unsqueeze(1).contiguous()


def front_end_facts(config: FrontEndConfig) -> dict[str, Any]:
    """Return every parameter of the front end, for toolkits that compute features themselves."""
    return {
        "features": "log(mel power + log_floor), (batch, frames, bands), not normalised over time",
        "frames": "1 + samples // hop_length",
        "sample_rate": config.sample_rate,
        "signal_scale": "[-1, 1]",
        "normalise_signal": config.normalise_signal,
        "signal_epsilon": SIGNAL_EPSILON if config.normalise_signal else None,
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


InputKind = Literal["waveform", "features"]


INPUT_KINDS: tuple[InputKind, ...] = ("waveform", "features")


Model = Backbone | ReDimNetMRL


class FeatureNetwork(nn.Module):
    """Log-mel features before normalisation ``(batch, frames, bands)`` -> embeddings: unit length, and raw.

    Maps are ``(batch, channels, frames, bands)``, 1-D signals ``(batch, frames, bands * channels)``: a change between the two is
    one transposition. All recordings of a batch have one length.

    Args:
        model: the network; a copy of its weights is made, on the CPU and in float32.
        fused_attention: keep PyTorch's own attention, for runtimes that have it.
    """

    def __init__(self, model: Model, *, fused_attention: bool = False) -> None:
        super().__init__()
        backbone = copy.deepcopy(backbone_of(model)).cpu().float().eval()
        self.bands = backbone.config.bands
        self.normalisation = TimeNormalisation(backbone.front_end)
        self.encoder = for_other_runtimes(backbone.encoder, fused_attention=fused_attention)
        self.pooling = backbone.pooling
        self.pooled_norm = backbone.pooled_norm
        if isinstance(model, ReDimNetMRL):
            head = nn.Linear(model.projection.inputs, model.projection.embed_dim)
            with torch.no_grad():
                head.weight.copy_(model.projection.weight)
                head.bias.copy_(model.projection.bias)
            self.head, self.head_norm = head, None
        else:
            self.head, self.head_norm = backbone.embedding, backbone.embedding_norm
        self.requires_grad_(False)
        self.eval()

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings of unit length and raw ones, each ``(batch, embed_dim)``."""
        frames = self.encoder(self.normalisation(features), None)[0]
        raw = self.head(self.pooled_norm(self.pooling(frames, None)))
        if self.head_norm is not None:
            raw = self.head_norm(raw)
        return nn.functional.normalize(raw, dim=-1), raw


class WaveformNetwork(nn.Module):
    """Waveforms ``(batch, samples)`` -> embeddings: unit length, and raw."""

    def __init__(self, model: Model, *, fused_attention: bool = False) -> None:
        super().__init__()
        self.log_mel = ConvolutionalLogMel(copy.deepcopy(backbone_of(model).front_end).cpu())
        self.network = FeatureNetwork(model, fused_attention=fused_attention)
        self.bands = self.network.bands
        self.requires_grad_(False)
        self.eval()

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings of unit length and raw ones, each ``(batch, embed_dim)``."""
        result: tuple[Tensor, Tensor] = self.network(self.log_mel(waveform))
        return result


def export_network(model: Model, kind: InputKind, *, fused_attention: bool = False) -> WaveformNetwork | FeatureNetwork:
    """Return the network to export, with waveforms or with features coming in."""
    form = WaveformNetwork if kind == "waveform" else FeatureNetwork
    return form(model, fused_attention=fused_attention)


def backbone_of(model: Model) -> Backbone:
    """Return the backbone inside a model."""
    return model.backbone if isinstance(model, ReDimNetMRL) else model

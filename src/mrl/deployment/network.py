"""A network in the form in which it is exported: no masks, no grouping, the front end as convolutions."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrl.backbone import Backbone
from mrl.backbone.folding import Kernel
from mrl.backbone.layers import MapNorm, SelfAttention, SignalGroupNorm
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


class GroupNormBySums(nn.Module):
    """SignalGroupNorm as sums over frames and over neighbouring features: nothing is transposed for it."""

    def __init__(self, source: SignalGroupNorm) -> None:
        super().__init__()
        self.groups, self.eps = source.groups, source.eps
        self.weight, self.bias = source.weight, source.bias

    def forward(self, signal: Tensor, mask: Tensor | None = None) -> Tensor:
        centred = signal - self._by_feature(signal.mean(dim=1))
        scale = (self._by_feature(centred.square().mean(dim=1)) + self.eps).rsqrt() * self.weight
        return centred * scale + self.bias

    def _by_feature(self, means: Tensor) -> Tensor:
        """Means per feature ``(batch, features)`` -> means of their groups, ``(batch, 1, features)``."""
        features = means.shape[1]
        grouped = means.reshape(-1, self.groups, features // self.groups).mean(dim=2, keepdim=True)
        return grouped.expand(-1, -1, features // self.groups).reshape(-1, 1, features)


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
        elif isinstance(child, SignalGroupNorm):
            setattr(module, name, GroupNormBySums(child))
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
    down, across = conv.stride
    above, beside = (side if isinstance(side, int) else 0 for side in conv.padding)
    wide = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        (height, width),
        stride=(down, across),
        padding=(above, beside),
        groups=kernel.groups,
        bias=conv.bias is not None,
    )
    with torch.no_grad():
        wide.weight.copy_(kernel.weight)
        if wide.bias is not None:
            wide.bias.copy_(kernel.bias)
    return wide


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
        self.time_stride = backbone.time_stride
        self.normalisation = backbone.front_end.time_normalisation()
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
        normalised = self.normalisation(features)
        if self.time_stride > 1:
            # Not as a slice: that it fits is nothing that the tracer can prove.
            used = torch.arange(normalised.shape[1] // self.time_stride * self.time_stride)
            normalised = normalised.index_select(1, used)
        frames = self.encoder(normalised, None)[0]
        raw = self.head(self.pooled_norm(self.pooling(frames, None)))
        if self.head_norm is not None:
            raw = self.head_norm(raw)
        return nn.functional.normalize(raw, dim=-1), raw


class ConvolutionalLogMel(nn.Module):
    """Waveforms ``(batch, samples)`` -> the log-mel features of a backbone before normalisation, as convolutions."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.padded_samples = backbone.padded_samples
        self.front_end = copy.deepcopy(backbone.front_end).cpu().as_convolutions()

    def forward(self, waveform: Tensor) -> Tensor:
        """Return ``(batch, frames, bands)``."""
        features: Tensor = self.front_end(functional.pad(waveform, (0, self.padded_samples)) if self.padded_samples else waveform)
        return features


class WaveformNetwork(nn.Module):
    """Waveforms ``(batch, samples)`` -> embeddings: unit length, and raw."""

    def __init__(self, model: Model, *, fused_attention: bool = False) -> None:
        super().__init__()
        self.log_mel = ConvolutionalLogMel(backbone_of(model))
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

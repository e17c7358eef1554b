"""A network in the form in which it is exported: no masks, no grouping, the front end as convolutions."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from mrl.backbone import ReDimNet
from mrl.deployment.front_end import ConvolutionalLogMel, TimeNormalisation
from mrl.deployment.layers import for_other_runtimes
from mrl.matryoshka import ReDimNetMRL

InputKind = Literal["waveform", "features"]
INPUT_KINDS: tuple[InputKind, ...] = ("waveform", "features")

Model = ReDimNet | ReDimNetMRL


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


def backbone_of(model: Model) -> ReDimNet:
    """Return the ReDimNet inside a model."""
    return model.backbone if isinstance(model, ReDimNetMRL) else model

"""The encoder of the first generation for inference only, see :mod:`mrl.backbone.inference`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrl.backbone.encoder import Encoder
from mrl.backbone.folding import InferenceConv, Kernel, affine_of
from mrl.backbone.inference import GROUP_INPUTS, InferenceTimeContext, inference_block, padding_of
from mrl.backbone.layers import as_maps, as_signal, hide_padding, map_mask
from mrl.backbone.redimnet.encoder import FrameEncoder, Squeeze, Stage
from mrl.backbone.sums import WeightedSum

# Up to so many channels convolutions are as fast in float32 as in bfloat16; with b5's 64 they take 1.1 times as long.
_NARROW = 16


class InferenceSqueeze(nn.Module):
    """Squeeze with its norm in the convolution."""

    def __init__(self, source: Squeeze) -> None:
        super().__init__()
        kernel = Kernel.of(source.conv).then(affine_of(source.norm))
        self.outputs, self.share = kernel.weight.shape[0], kernel.weight.shape[1]
        self.depthwise = kernel.groups == self.outputs
        if self.depthwise:
            # One output per group of a few inputs: a depthwise convolution, and adding up each group's maps.
            bias = functional.pad(kernel.bias.unsqueeze(1), (0, self.share - 1)).flatten()
            kernel = Kernel(kernel.weight.reshape(-1, 1, *kernel.weight.shape[2:]), bias, self.outputs * self.share)
            self.conv = InferenceConv(kernel, padding=padding_of(source.conv))
        else:
            self.conv = InferenceConv(kernel.merged(GROUP_INPUTS), padding=padding_of(source.conv), activation="gelu")
        self.pointwise = InferenceConv(Kernel.of(source.pointwise))

    def forward(self, maps: Tensor, mask: Tensor | None = None) -> Tensor:
        hidden = self.conv(hide_padding(maps, mask))
        if self.depthwise:
            each = hidden.permute(0, 2, 3, 1)
            total = each[..., :: self.share]
            for position in range(1, self.share):
                total = total + each[..., position :: self.share]
            hidden = functional.gelu(total).permute(0, 3, 1, 2)
        result: Tensor = self.pointwise(hidden)
        return result


class InferenceStage(nn.Module):
    """Stage; the strided convolution over bands is a matrix product, for its steps do not overlap."""

    def __init__(self, source: Stage) -> None:
        super().__init__()
        reshape = Kernel.of(source.reshape)
        width, channels, _, stride = reshape.weight.shape
        self.bands = source.bands_in // stride
        self.weighted_sum = source.weighted_sum.for_inference()
        by_memory = reshape.weight.permute(0, 3, 2, 1).reshape(width, stride * channels, 1, 1)
        self.reshape = InferenceConv(Kernel(by_memory, reshape.bias))
        self.blocks = nn.ModuleList(inference_block(block, self.bands) for block in source.blocks)
        self.squeeze = None if source.squeeze is None else InferenceSqueeze(source.squeeze)
        self.context = None if source.context is None else InferenceTimeContext(source.context)

    def forward(self, outputs: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        summed: Tensor = self.weighted_sum(outputs)
        maps = self.reshape(summed.view(*summed.shape[:2], self.bands, -1).permute(0, 3, 1, 2))
        maps_inside = map_mask(mask)
        for block in self.blocks:
            maps = block(maps, maps_inside)
        if self.squeeze is not None:
            maps = self.squeeze(maps, maps_inside)
        signal: Tensor = as_signal(maps)
        if self.context is not None:
            signal = self.context(signal, mask)
        return signal


class InferenceEncoder(Encoder):
    """FrameEncoder: ``(batch, frames, bands)`` log-mel features -> ``(batch, frames, frame_dim)`` frame features."""

    def __init__(self, source: FrameEncoder) -> None:
        super().__init__()
        self.stem = InferenceConv(Kernel.of(source.stem), padding=(1, 1))
        self.stem_norm = source.stem_norm
        self.stages = nn.ModuleList()
        for stage in source.stages:
            assert isinstance(stage, Stage)
            self.stages.append(InferenceStage(stage))
        first = source.stages[0]
        assert isinstance(first, Stage)
        self.exact_stages = 1 if first.reshape.out_channels <= _NARROW else 0
        assert isinstance(source.final_sum, WeightedSum)
        self.final_sum = source.final_sum.for_inference()
        self.outputs_after = source.outputs_after
        self.frame_dim = source.frame_dim
        self.numbers_per_frame = source.numbers_per_frame
        self.frame_projection = None
        if source.frame_projection is not None and source.frame_norm is not None:
            kernel = Kernel.of(source.frame_projection).then(affine_of(source.frame_norm))
            self.frame_projection = InferenceConv(kernel)

    def in_dtype(self, dtype: torch.dtype) -> InferenceEncoder:
        """Convert the weights, in place, and return the encoder.

        The stem, and the first stage where it is narrow, are never less precise than float32: nearly all that bfloat16 changes in
        an embedding of b0 comes from rounding their weights, and with so few channels they are no faster for it.
        """
        for name, part in self.named_children():
            if name not in ("stem", "stem_norm", "stages"):
                part.to(dtype)
        exact = [self.stem, self.stem_norm, *self.stages[: self.exact_stages]]
        for part in exact:
            part.to(torch.float32)
        for part in self.stages[self.exact_stages :]:
            part.to(dtype)
        return self

    def stage_outputs(self, features: Tensor, mask: Tensor | None = None, depth: int | None = None) -> list[Tensor]:
        """Return the outputs of the stem and of the first ``depth`` stages (None: all), each ``(batch, frames, volume)``."""
        maps = hide_padding(features.to(self.stem_norm.weight.dtype).unsqueeze(1), map_mask(mask))
        # With one channel any contiguous memory is channels-last; the strides must say so.
        maps = maps.contiguous()
        maps = self.stem(maps.as_strided(maps.shape, (maps.shape[2] * maps.shape[3], 1, maps.shape[3], 1)))
        outputs = [self.stem_norm(maps.permute(0, 2, 3, 1)).flatten(2)]
        stages = list(self.stages)[:depth]
        for stage in stages[: self.exact_stages]:
            outputs.append(stage(outputs, mask))
        outputs = [output.to(self.final_sum.weights.dtype) for output in outputs]
        for stage in stages[self.exact_stages :]:
            outputs.append(stage(outputs, mask))
        return outputs

    def project_frames(self, summed: Tensor) -> Tensor:
        """Turn a weighted sum of outputs ``(batch, frames, volume)`` into frame features ``(batch, frames, frame_dim)``."""
        return summed if self.frame_projection is None else as_signal(self.frame_projection(as_maps(summed)))

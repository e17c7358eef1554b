"""The ReDimNet2 encoder: as in the first generation 2-D and 1-D views of one memory, ``(batch, frames, bands, channels)``.

A stage reads the weighted sum of all earlier outputs at full time resolution, works at its own coarser one, and its output counts
for several frames each. The official network repeats those frames at once; here outputs are kept as they are, and repeated only
where they are added up: normalisation, weights and storage are the same or cheaper that way, and the values are equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mrl.backbone.encoder import Encoder, StageSum
from mrl.backbone.layers import (
    ConvNeXtBlock,
    MapNorm,
    ResidualBlock,
    SignalGroupNorm,
    TimeContext,
    as_signal,
    map_mask,
)
from mrl.backbone.redimnet2.config import ReDimNet2Config
from mrl.backbone.sums import WeightedSum

_NORM_EPSILON = 1e-6


class Squeeze(nn.Module):
    """Back from expanded channels to the stage's own: a 1x1 convolution and its norm, no activation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1)
        self.norm = MapNorm(outputs, eps=1e-6)

    def forward(self, maps: Tensor) -> Tensor:
        result: Tensor = self.norm(self.conv(maps))
        return result


class StageSteps(nn.Module):
    """What a stage does, in training and in its inference form.

    Gives one output, or two where the configuration says so: what there is before the time context, and after it.
    """

    weighted_sum: StageSum
    band_embedding: Tensor | None
    blocks: nn.ModuleList
    squeeze: nn.Module | None
    context: nn.Module | None
    norm: nn.Module | None
    norm_before: nn.Module | None
    time_stride: int
    two_maps: bool

    def to_maps(self, summed: Tensor) -> Tensor:
        """Turn a sum ``(batch, frames, volume)`` into maps at the stage's own resolution."""
        raise NotImplementedError

    def forward(self, outputs: Sequence[Tensor], mask: Tensor | None) -> list[Tensor]:
        """Return outputs ``(batch, frames / time_stride, volume)``; ``mask`` is that of all frames, ``(batch, frames)``."""
        summed: Tensor = self.weighted_sum(outputs)
        if self.band_embedding is not None:
            summed = summed + self.band_embedding.flatten()
        maps = self.to_maps(summed)
        own_mask = None if mask is None else mask[:, :: self.time_stride]
        maps_inside = map_mask(own_mask)
        for block in self.blocks:
            maps = block(maps, maps_inside)
        if self.squeeze is not None:
            maps = self.squeeze(maps)
        signal = as_signal(maps)
        results = []
        if self.two_maps:
            # The inference form adds the time context to the signal in place.
            results.append(signal.clone() if self.norm_before is None else self.norm_before(signal, own_mask))
        if self.context is not None:
            signal = self.context(signal, own_mask)
        results.append(signal if self.norm is None else self.norm(signal, own_mask))
        return results


class Stage(StageSteps):
    """Weighted sum, convolution that strides over bands and frames, 2-D blocks, squeeze where expanded, time context, norm."""

    weighted_sum: WeightedSum
    squeeze: Squeeze | None
    context: TimeContext | None
    norm: SignalGroupNorm | None
    norm_before: SignalGroupNorm | None

    def __init__(self, config: ReDimNet2Config, index: int, strides: Sequence[int], channels: int, bands: int) -> None:
        super().__init__()
        stage = config.stages[index]
        self.bands_in, self.channels_in = bands, channels
        self.time_stride = config.time_strides[index]
        channels_out, bands_out = channels * stage.band_stride, bands // stage.band_stride
        width = int(channels_out * stage.expansion)
        self.weighted_sum = WeightedSum(len(strides), config.volume, strides, logit_per_feature=True)
        self.band_embedding = nn.Parameter(torch.zeros(bands, channels)) if config.band_embedding else None
        if self.band_embedding is not None:
            nn.init.normal_(self.band_embedding)
        steps = (self.time_stride, stage.band_stride)
        groups = math.gcd(channels, width) if config.grouped_reshape else 1
        self.reshape = nn.Conv2d(channels, width, steps, stride=steps, groups=groups)
        self.blocks = nn.ModuleList(_block(config, stage.kernel_sizes, width, bands_out) for _ in range(stage.num_blocks))
        self.squeeze = Squeeze(width, channels_out) if stage.expansion != 1 else None
        reduction = stage.context_reduction
        self.context = TimeContext(config.volume, config.volume // reduction, config.block_1d) if reduction is not None else None
        self.norm = SignalGroupNorm(config.volume, config.map_groups) if config.map_groups else None
        self.two_maps = config.two_maps and self.context is not None
        self.norm_before = SignalGroupNorm(config.volume, config.map_groups) if self.two_maps and config.map_groups else None

    @property
    def num_outputs(self) -> int:
        """How many outputs it gives."""
        return 2 if self.two_maps else 1

    def to_maps(self, summed: Tensor) -> Tensor:
        maps: Tensor = self.reshape(summed.view(*summed.shape[:2], self.bands_in, self.channels_in).permute(0, 3, 1, 2))
        return maps


def _block(
    config: ReDimNet2Config, kernels: tuple[tuple[int, int], ...], channels: int, bands: int
) -> ConvNeXtBlock | ResidualBlock:
    if config.block_2d.startswith("convnext_like"):
        ours = tuple((in_time, in_frequency) for in_frequency, in_time in kernels)
        return ConvNeXtBlock(channels, ours, config.group_divisor, relu=config.block_2d == "convnext_like_relu")
    return ResidualBlock(channels, bands, config.group_divisor, band_excitation=config.block_2d == "basic_resnet_fwse")


class FrameEncoder(Encoder):
    """``(batch, frames, bands)`` log-mel features -> ``(batch, frames, frame_dim)``; frames are a multiple of the time stride."""

    def __init__(self, config: ReDimNet2Config) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, config.channels, 3, padding=1)
        self.stem_norm = nn.LayerNorm(config.channels, eps=_NORM_EPSILON)
        self.stem_group_norm = SignalGroupNorm(config.volume, config.map_groups) if config.map_groups else None
        stages: list[Stage] = []
        strides, outputs_after = [1], [1]
        channels, bands = config.channels, config.bands
        for index in range(config.num_stages):
            stages.append(Stage(config, index, strides, channels, bands))
            channels, bands = channels * config.stages[index].band_stride, bands // config.stages[index].band_stride
            strides += [stages[-1].time_stride] * stages[-1].num_outputs
            outputs_after.append(len(strides))
        self.stages = nn.ModuleList(stages)
        self.outputs_after = tuple(outputs_after)
        self.final_sum = WeightedSum(len(strides), config.volume, strides, logit_per_feature=True)
        self.frame_dim = config.frame_dim
        sizes = zip(config.stages, config.time_strides, strict=True)
        widest = max((stage.expansion / stride for stage, stride in sizes), default=1)
        self.numbers_per_frame = round(config.volume * max(1, widest))
        self.head_bands = config.last_bands if config.head_2d else 1
        inputs = config.volume // self.head_bands
        self.frame_projection = nn.Linear(inputs, config.head_channels) if config.head_channels else None

    def stem_output(self, features: Tensor, mask: Tensor | None) -> Tensor:
        signal = super().stem_output(features, mask)
        return signal if self.stem_group_norm is None else self.stem_group_norm(signal, mask)

    def project_frames(self, summed: Tensor) -> Tensor:
        maps = summed.view(*summed.shape[:2], self.head_bands, -1)
        if self.frame_projection is not None:
            maps = self.frame_projection(maps)
        # Over bands and channels the official order of the pooled features is by channel.
        return maps.transpose(2, 3).flatten(2)

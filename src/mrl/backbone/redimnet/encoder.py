"""The ReDimNet encoder: log-mel features to frame features, through 2-D and 1-D views of one memory.

A 2-D map of ``channels`` x ``bands`` and a 1-D signal of ``bands * channels`` features hold the same values per frame. Kept in
the order ``(batch, frames, bands, channels)``, one is a view of the other: the change of dimension that names the network costs
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from mrl.backbone.encoder import Encoder, StageSum
from mrl.backbone.layers import (
    ConvNeXtBlock,
    MapNorm,
    ResidualBlock,
    TimeContext,
    as_signal,
    grouped_conv,
    hide_padding,
    map_mask,
)
from mrl.backbone.redimnet.config import ReDimNetConfig, StageConfig
from mrl.backbone.sums import WeightedSum

_NORM_EPSILON = 1e-6


class Squeeze(nn.Module):
    """Back from expanded channels to the stage's own, so that bands x channels stays the same after every stage."""

    def __init__(self, inputs: int, outputs: int, group_divisor: int | None) -> None:
        super().__init__()
        self.conv = grouped_conv(inputs, outputs, (3, 3), group_divisor, bias=True)
        self.norm = MapNorm(outputs, eps=1e-6)
        self.pointwise = nn.Conv2d(outputs, outputs, 1)

    def forward(self, maps: Tensor, mask: Tensor | None = None) -> Tensor:
        result: Tensor = self.pointwise(functional.gelu(self.norm(self._narrow(hide_padding(maps, mask)))))
        return result

    def _narrow(self, maps: Tensor) -> Tensor:
        conv = self.conv
        if conv.groups != conv.out_channels or conv.bias is None:
            narrow: Tensor = conv(maps)
            return narrow
        # One output per group of a few inputs: libraries have no fast kernel for it. The same sum is a depthwise convolution, for
        # which all have one, followed by adding up each group's maps.
        share = conv.in_channels // conv.out_channels
        weight = conv.weight.reshape(conv.in_channels, 1, *conv.weight.shape[2:])
        bias = functional.pad(conv.bias.unsqueeze(1), (0, share - 1)).flatten()
        each = functional.conv2d(maps, weight, bias, padding=1, groups=conv.in_channels)
        each = each.permute(0, 2, 3, 1)
        total = each[..., ::share] + each[..., 1::share] if share > 1 else each
        for position in range(2, share):
            total = total + each[..., position::share]
        return total.permute(0, 3, 1, 2)


class StageSteps(nn.Module):
    """What a stage does, in training and in its inference form."""

    weighted_sum: StageSum
    reshape: nn.Module
    blocks: nn.ModuleList
    squeeze: nn.Module | None
    context: nn.Module | None
    bands: int
    dropout = 0.0

    def forward(self, outputs: Sequence[Tensor], mask: Tensor | None) -> list[Tensor]:
        summed: Tensor = self.weighted_sum(outputs)
        maps = self.reshape(summed.reshape(*summed.shape[:2], self.bands, -1).permute(0, 3, 1, 2))
        maps_inside = map_mask(mask)
        for block in self.blocks:
            maps = block(maps, maps_inside)
        if self.squeeze is not None:
            maps = self.squeeze(maps, maps_inside)
        signal = as_signal(maps)
        if self.context is not None:
            signal = self.context(signal, mask)
        return [functional.dropout(signal, p=self.dropout, training=self.training)]


class Stage(StageSteps):
    """Weighted sum, strided convolution over bands, 2-D blocks, squeeze where expanded, time context."""

    weighted_sum: WeightedSum
    reshape: nn.Conv2d
    squeeze: Squeeze | None
    context: TimeContext | None

    def __init__(self, config: ReDimNetConfig, stage: StageConfig, index: int, channels: int, bands: int) -> None:
        super().__init__()
        self.bands = bands
        self.dropout = config.stage_dropout
        channels_out, bands_out = channels * stage.stride, bands // stage.stride
        width = channels_out * stage.expansion
        self.weighted_sum = WeightedSum(index + 1, config.volume)
        self.reshape = nn.Conv2d(channels, width, (1, stage.stride), stride=(1, stage.stride))
        self.blocks = nn.ModuleList(
            block_2d(config.block_2d, width, bands_out, config.group_divisor) for _ in range(stage.num_blocks)
        )
        self.squeeze = Squeeze(width, channels_out, config.group_divisor) if stage.expansion != 1 else None
        reduction = stage.context_reduction
        self.context = TimeContext(config.volume, config.volume // reduction, config.block_1d) if reduction is not None else None


class FrameEncoder(Encoder):
    """``(batch, frames, bands)`` log-mel features -> ``(batch, frames, frame_dim)`` frame features."""

    def __init__(self, config: ReDimNetConfig) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, config.channels, 3, padding=1)
        self.stem_norm = nn.LayerNorm(config.channels, eps=_NORM_EPSILON)
        stages = []
        channels, bands = config.channels, config.bands
        for index, stage in enumerate(config.stages):
            stages.append(Stage(config, stage, index, channels, bands))
            channels, bands = channels * stage.stride, bands // stage.stride
        self.stages = nn.ModuleList(stages)
        self.final_sum = WeightedSum(len(stages) + 1, config.volume)
        self.outputs_after = tuple(range(1, len(stages) + 2))
        self.frame_dim = config.frame_dim or config.volume
        self.numbers_per_frame = config.volume * max((stage.expansion for stage in config.stages), default=1)
        self.frame_projection = nn.Linear(config.volume, config.frame_dim) if config.frame_dim else None
        self.frame_norm = MapNorm(config.frame_dim) if config.frame_dim else None

    def project_frames(self, summed: Tensor) -> Tensor:
        if self.frame_projection is None or self.frame_norm is None:
            return summed
        projected = self.frame_projection(summed).unsqueeze(2).permute(0, 3, 1, 2)
        frames: Tensor = self.frame_norm(projected).permute(0, 2, 3, 1).squeeze(2)
        return frames


def block_2d(kind: str, channels: int, bands: int, group_divisor: int | None) -> ConvNeXtBlock | ResidualBlock:
    """Build the 2-D block that an official ``block_2d_type`` names."""
    if kind in ("convnext_like", "convnext_like_relu"):
        return ConvNeXtBlock(channels, ((3, 3),), group_divisor, relu=kind == "convnext_like_relu")
    return ResidualBlock(channels, bands, group_divisor, band_excitation=kind == "basic_resnet_fwse")

"""What the encoders of all families have in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mrl.backbone.layers import hide_padding, map_mask
from mrl.backbone.sums import FixedSum, WeightedSum

StageSum = WeightedSum | FixedSum
"""A weighted sum of the outputs of stem and stages, of a network or of its inference copy."""


class Encoder(nn.Module):
    """Log-mel features ``(batch, frames, bands)`` -> frame features ``(batch, frames, frame_dim)``, of a network or its copy.

    Attributes:
        stem, stem_norm: from features to the first output.
        frame_dim: features per frame that are pooled.
        numbers_per_frame: how many values the largest map holds per frame of the features.
        outputs_after: how many outputs there are before the first stage and after each.
        final_sum: the last weighted sum.
        stages: one module per stage.
    """

    stem: nn.Module
    stem_norm: nn.LayerNorm
    frame_dim: int
    numbers_per_frame: int
    outputs_after: tuple[int, ...]
    final_sum: StageSum
    stages: nn.ModuleList

    def forward(self, features: Tensor, mask: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return the frame features, and the 1-D outputs of stem, stages and final sum, each ``(batch, frames, volume)``."""
        outputs = self.stage_outputs(features, mask)
        outputs.append(self.final_sum(outputs))
        return self.project_frames(outputs[-1]), outputs

    def stage_outputs(self, features: Tensor, mask: Tensor | None = None, depth: int | None = None) -> list[Tensor]:
        """Return the outputs of the stem and of the first ``depth`` stages (None: all), each at its own time resolution."""
        outputs = [self.stem_output(features, mask)]
        for stage in self.stages[:depth]:
            outputs.extend(stage(outputs, mask))
        return outputs

    def stem_output(self, features: Tensor, mask: Tensor | None) -> Tensor:
        """Return the first output, ``(batch, frames, volume)``."""
        maps = self.stem(hide_padding(features.unsqueeze(1), map_mask(mask)).contiguous(memory_format=torch.channels_last))
        signal: Tensor = self.stem_norm(maps.permute(0, 2, 3, 1)).flatten(2)
        return signal

    def project_frames(self, summed: Tensor) -> Tensor:
        """Turn a weighted sum of outputs ``(batch, frames, volume)`` into frame features ``(batch, frames, frame_dim)``."""
        raise NotImplementedError

    def at_full_resolution(self, outputs: list[Tensor]) -> list[Tensor]:
        """Return what :meth:`forward` gives with the frames repeated of outputs that are coarser in time than the features."""
        strides = (*self.final_sum.strides, 1)
        return [
            output if stride == 1 else output.repeat_interleave(stride, dim=1)
            for output, stride in zip(outputs, strides, strict=True)
        ]

    def depth_of(self, num_outputs: int) -> int:
        """Return after how many stages there are this many outputs."""
        return next(depth for depth, count in enumerate(self.outputs_after) if count >= num_outputs)

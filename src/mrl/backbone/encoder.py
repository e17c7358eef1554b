"""What is asked of a family's configuration and encoder."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from mrl.backbone.sums import FixedSum, WeightedSum

StageSum = WeightedSum | FixedSum
"""A weighted sum of the outputs of stem and stages, of a network or of its inference copy."""


class BackboneConfig(Protocol):
    """What is asked of the configuration of any family."""

    @property
    def embed_dim(self) -> int: ...

    @property
    def bands(self) -> int: ...

    @property
    def num_stages(self) -> int: ...

    @property
    def return_all_outputs(self) -> bool: ...

    def to_model_config(self) -> dict[str, Any]:
        """Return the official ``model_config``, every key spelled out."""
        ...

    def with_embedding(self, embed_dim: int, *, num_stages: int | None = None) -> BackboneConfig:
        """Return the configuration of the first stages with another plain affine embedding and no classes."""
        ...


class Encoder(nn.Module):
    """Log-mel features ``(batch, frames, bands)`` -> frame features ``(batch, frames, frame_dim)``, of a network or its copy.

    Attributes:
        frame_dim: numbers per frame that are pooled.
        numbers_per_frame: how many numbers the largest map holds per frame of the features.
        outputs_after: how many outputs there are before the first stage and after each.
        final_sum: the last weighted sum.
        stages: one module per stage.
    """

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
        """Return the outputs of the stem and of the first ``depth`` stages (None: all)."""
        raise NotImplementedError

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
        """Return after how many stages there are so many outputs."""
        return next(depth for depth, count in enumerate(self.outputs_after) if count >= num_outputs)

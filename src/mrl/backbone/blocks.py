"""The 2-D blocks of ReDimNet. All maps are ``(batch, channels, frames, bands)`` in channels-last memory.

A 1-D signal ``(batch, frames, features)`` is the same thing with one band and ``features`` channels, so the convolutional
time-context blocks are these blocks too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrl.backbone.masking import hide_padding


def grouped_conv(inputs: int, outputs: int, kernel: tuple[int, int], group_divisor: int | None, *, bias: bool) -> nn.Conv2d:
    """Return a convolution that keeps the size, with ``outputs // group_divisor`` groups (one group when None)."""
    groups = 1 if group_divisor is None else outputs // group_divisor
    padding = (kernel[0] // 2, kernel[1] // 2)
    return nn.Conv2d(inputs, outputs, kernel, padding=padding, groups=groups, bias=bias)


class ConvNeXtBlock(nn.Module):
    """Grouped convolutions side by side, BatchNorm, activation, 1x1 convolution, residual."""

    def __init__(self, channels: int, kernels: tuple[tuple[int, int], ...], group_divisor: int | None, *, relu: bool = False) -> None:
        super().__init__()
        self.convs = nn.ModuleList(grouped_conv(channels, channels, kernel, group_divisor, bias=True) for kernel in kernels)
        self.norm = nn.BatchNorm2d(channels * len(kernels))
        self.activation: nn.Module = nn.ReLU() if relu else nn.GELU()
        self.pointwise = nn.Conv2d(channels * len(kernels), channels, 1)

    def forward(self, maps: Tensor, mask: Tensor | None = None) -> Tensor:
        visible = hide_padding(maps, mask)
        outputs = [conv(visible) for conv in self.convs]
        mixed = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        return maps + self.pointwise(self.activation(self.norm(mixed)))


class BandExcitation(nn.Module):
    """Squeeze-and-excitation over frequency: one gate per band from its mean over channels and frames (arXiv 1709.01507)."""

    def __init__(self, bands: int, hidden: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(bands, hidden)
        self.excite = nn.Linear(hidden, bands)

    def forward(self, maps: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            summary = maps.mean(dim=(1, 2))
        else:
            frames = mask.sum(dim=(1, 2)).to(maps.dtype)
            summary = hide_padding(maps, mask).mean(dim=1).sum(dim=1) / frames
        gates = torch.sigmoid(self.excite(functional.relu(self.squeeze(summary))))
        return maps * gates[:, None, None, :]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions (each split into grouped and 1x1 where there are groups), BatchNorm after the first ReLU, residual."""

    def __init__(self, channels: int, bands: int, group_divisor: int | None, *, band_excitation: bool) -> None:
        super().__init__()
        grouped = group_divisor is not None
        self.conv1 = grouped_conv(channels, channels, (3, 3), group_divisor, bias=False)
        self.pointwise1 = nn.Conv2d(channels, channels, 1) if grouped else None
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = grouped_conv(channels, channels, (3, 3), group_divisor, bias=False)
        self.pointwise2 = nn.Conv2d(channels, channels, 1) if grouped else None
        self.norm2 = nn.BatchNorm2d(channels)
        self.excitation = BandExcitation(bands, min(64, max(channels, 32))) if band_excitation else None

    def forward(self, maps: Tensor, mask: Tensor | None = None) -> Tensor:
        hidden = self.conv1(hide_padding(maps, mask))
        if self.pointwise1 is not None:
            hidden = self.pointwise1(hidden)
        hidden = self.norm1(functional.relu_(hidden))
        hidden = self.conv2(hide_padding(hidden, mask))
        if self.pointwise2 is not None:
            hidden = self.pointwise2(hidden)
        hidden = self.norm2(hidden)
        if self.excitation is not None:
            hidden = self.excitation(hidden, mask)
        return functional.relu_(hidden.add_(maps) if hidden.dtype == maps.dtype else hidden + maps)


class Squeeze(nn.Module):
    """Back from expanded channels to the stage's own, so that bands x channels stays the same after every stage."""

    def __init__(self, inputs: int, outputs: int, group_divisor: int | None) -> None:
        super().__init__()
        self.conv = grouped_conv(inputs, outputs, (3, 3), group_divisor, bias=True)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-6)
        self.pointwise = nn.Conv2d(outputs, outputs, 1)

    def forward(self, maps: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.pointwise(functional.gelu(self.norm(self.conv(hide_padding(maps, mask)))))  # type: ignore[no-any-return]


def block_2d(kind: str, channels: int, bands: int, group_divisor: int | None) -> ConvNeXtBlock | ResidualBlock:
    """Build the 2-D block that an official ``block_2d_type`` names."""
    if kind in ("convnext_like", "convnext_like_relu"):
        return ConvNeXtBlock(channels, ((3, 3),), group_divisor, relu=kind == "convnext_like_relu")
    return ResidualBlock(channels, bands, group_divisor, band_excitation=kind == "basic_resnet_fwse")

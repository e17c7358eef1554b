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


def add_into(result: Tensor, residual: Tensor) -> Tensor:
    """Return ``result + residual``, written over ``result`` where both have one type (under autocast they may not).

    ``result`` must be fresh, and come from an operation whose gradient does not need it: convolution, linear, normalisation.
    """
    return result.add_(residual) if result.dtype == residual.dtype else result + residual


class MapNorm(nn.BatchNorm2d):
    """BatchNorm of maps in channels-last memory, with a faster way for inference on a CPU.

    With fixed statistics a BatchNorm is one scale and one shift per channel. PyTorch applies them pixel by pixel, which is slow
    for the few channels of the first stages; here they are repeated over the bands, so that whole frames are one row.
    """

    def forward(self, input: Tensor) -> Tensor:
        mean, variance, bands = self.running_mean, self.running_var, input.shape[3]
        fast = input.dtype == torch.float32 and input.device.type == "cpu" and bands > 1
        if self.training or mean is None or variance is None or not fast:
            return super().forward(input)
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = torch.addcmul(self.bias, mean, scale, value=-1.0)
        frames = input.permute(0, 2, 3, 1)
        by_frame = [each.expand(bands, -1).reshape(-1) for each in (shift, scale)]
        normalised = torch.addcmul(by_frame[0], frames.flatten(2), by_frame[1])
        return normalised.view(frames.shape).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """Grouped convolutions side by side, BatchNorm, activation, 1x1 convolution, residual."""

    def __init__(
        self, channels: int, kernels: tuple[tuple[int, int], ...], group_divisor: int | None, *, relu: bool = False
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(grouped_conv(channels, channels, kernel, group_divisor, bias=True) for kernel in kernels)
        self.norm = MapNorm(channels * len(kernels))
        self.relu = relu
        self.pointwise = nn.Conv2d(channels * len(kernels), channels, 1)

    def forward(self, maps: Tensor, mask: Tensor | None = None) -> Tensor:
        visible = hide_padding(maps, mask)
        outputs = [conv(visible) for conv in self.convs]
        mixed = self.norm(outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1))
        active = functional.relu_(mixed) if self.relu else functional.gelu(mixed)
        return add_into(self.pointwise(active), maps)


class BandExcitation(nn.Module):
    """Squeeze-and-excitation over frequency: one gate per band from its mean over channels and frames (arXiv 1709.01507)."""

    def __init__(self, bands: int, hidden: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(bands, hidden)
        self.excite = nn.Linear(hidden, bands)

    def forward(self, maps: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(batch, channels, frames, bands)`` -> gates ``(batch, 1, 1, bands)``."""
        if mask is None:
            summary = maps.mean(dim=(1, 2))
        else:
            frames = mask.sum(dim=(1, 2)).to(maps.dtype)
            summary = hide_padding(maps, mask).mean(dim=1).sum(dim=1) / frames
        gates = torch.sigmoid(self.excite(functional.relu(self.squeeze(summary))))
        return gates[:, None, None, :]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions (each split into grouped and 1x1 where there are groups), BatchNorm after the first ReLU, residual."""

    def __init__(self, channels: int, bands: int, group_divisor: int | None, *, band_excitation: bool) -> None:
        super().__init__()
        grouped = group_divisor is not None
        self.conv1 = grouped_conv(channels, channels, (3, 3), group_divisor, bias=False)
        self.pointwise1 = nn.Conv2d(channels, channels, 1) if grouped else None
        self.norm1 = MapNorm(channels)
        self.conv2 = grouped_conv(channels, channels, (3, 3), group_divisor, bias=False)
        self.pointwise2 = nn.Conv2d(channels, channels, 1) if grouped else None
        self.norm2 = MapNorm(channels)
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
        if self.excitation is None:
            return functional.relu_(add_into(hidden, maps))
        return functional.relu_(torch.addcmul(maps, hidden, self.excitation(hidden, mask).to(hidden.dtype)))


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


def block_2d(kind: str, channels: int, bands: int, group_divisor: int | None) -> ConvNeXtBlock | ResidualBlock:
    """Build the 2-D block that an official ``block_2d_type`` names."""
    if kind in ("convnext_like", "convnext_like_relu"):
        return ConvNeXtBlock(channels, ((3, 3),), group_divisor, relu=kind == "convnext_like_relu")
    return ResidualBlock(channels, bands, group_divisor, band_excitation=kind == "basic_resnet_fwse")

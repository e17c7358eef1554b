"""The layers that families share: 2-D blocks, and time context on the 1-D signal.

All maps are ``(batch, channels, frames, bands)`` in channels-last memory. A 1-D signal ``(batch, frames, features)`` is the same
thing with one band and ``features`` channels, so the convolutional time-context blocks are 2-D blocks too.

Padding is kept out: every operation that looks along time first sets frames beyond an utterance's end to zero. A convolution
alone sees zeros past the end of an utterance; in a padded batch it would see whatever the padding has become by then. Setting it
to zero before each convolution over time makes the result of an item in a batch that of the item alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrl.errors import ConfigError

ATTENTION_HEADS = 4
_NORM_EPSILON = 1e-6
_POSITION_KERNEL = 59


def hide_padding(features: Tensor, mask: Tensor | None) -> Tensor:
    """Set padding to zero. ``mask`` broadcasts against ``features`` and is true inside; None: nothing is padded."""
    return features if mask is None else features.masked_fill(~mask, 0.0)


def map_mask(mask: Tensor | None) -> Tensor | None:
    """Turn a ``(batch, frames)`` mask into one for maps ``(batch, channels, frames, bands)``."""
    return None if mask is None else mask[:, None, :, None]


def as_maps(signal: Tensor) -> Tensor:
    """See a signal ``(batch, frames, features)`` as maps with one band, without copying."""
    return signal.unsqueeze(2).permute(0, 3, 1, 2)


def as_signal(maps: Tensor) -> Tensor:
    """See maps ``(batch, channels, frames, bands)`` as a signal ``(batch, frames, bands * channels)``, without copying."""
    return maps.permute(0, 2, 3, 1).flatten(2)


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


class SignalGroupNorm(nn.Module):
    """GroupNorm of a signal ``(batch, frames, features)`` over neighbouring features and each item's own frames."""

    def __init__(self, features: int, groups: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))

    def forward(self, signal: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            # Seen as channels-last maps of one band the signal has PyTorch's fast kernel.
            return as_signal(functional.group_norm(as_maps(signal), self.groups, self.weight, self.bias, self.eps))
        exact = signal.float()
        share = signal.shape[2] // self.groups
        count = mask.sum(dim=1).reshape(-1, 1, 1) * share
        inside = mask.unsqueeze(-1)
        mean = self._by_feature(hide_padding(exact, inside).sum(dim=1), count)
        centred = hide_padding(exact - mean.unsqueeze(1), inside)
        variance = self._by_feature(centred.square().sum(dim=1), count)
        scale = (variance + self.eps).rsqrt() * self.weight
        return torch.addcmul(self.bias.to(exact.dtype), centred, scale.unsqueeze(1)).to(signal.dtype)

    def _by_feature(self, sums: Tensor, count: Tensor) -> Tensor:
        """Sums per feature ``(batch, features)`` -> means of their groups, again per feature."""
        grouped = sums.view(len(sums), self.groups, -1).sum(dim=2, keepdim=True) / count
        return grouped.expand(-1, -1, sums.shape[1] // self.groups).flatten(1)


class SelfAttention(nn.Module):
    """Multi-head self-attention over frames; query, key and value come from one matrix product."""

    def __init__(self, features: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key_value = nn.Linear(features, 3 * features)
        self.output = nn.Linear(features, features)

    def forward(self, signal: Tensor, mask: Tensor | None = None) -> Tensor:
        batch, frames, features = signal.shape
        heads = self.query_key_value(signal).view(batch, frames, 3, self.num_heads, features // self.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        keys_seen = None if mask is None else mask[:, None, None, :]
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=keys_seen)
        result: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, frames, features))
        return result


class TransformerBlock(nn.Module):
    """Self-attention and feed-forward, each with a residual and normalised after it."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.attention = SelfAttention(features, ATTENTION_HEADS)
        self.norm1 = nn.LayerNorm(features, eps=_NORM_EPSILON)
        self.feed_in = nn.Linear(features, hidden)
        self.feed_out = nn.Linear(hidden, features)
        self.norm2 = nn.LayerNorm(features, eps=_NORM_EPSILON)

    def forward(self, signal: Tensor, mask: Tensor | None = None) -> Tensor:
        signal = self.norm1(add_into(self.attention(signal, mask), signal))
        hidden = functional.gelu(self.feed_in(signal), approximate="tanh")
        result: Tensor = self.norm2(add_into(self.feed_out(hidden), signal))
        return result


class TimeConv(nn.Module):
    """A convolutional block along time: the 2-D block on a map with one band."""

    def __init__(self, features: int, kernels: tuple[int, ...]) -> None:
        super().__init__()
        self.block = ConvNeXtBlock(features, tuple((kernel, 1) for kernel in kernels), 1)

    def forward(self, signal: Tensor, mask: Tensor | None = None) -> Tensor:
        maps = signal.unsqueeze(2).permute(0, 3, 1, 2)
        mixed: Tensor = self.block(maps, map_mask(mask))
        return mixed.permute(0, 2, 3, 1).squeeze(2)


class PositionConv(nn.Module):
    """A wide depthwise convolution that gives attention the positions of frames."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(features, features, (_POSITION_KERNEL, 1), padding=(_POSITION_KERNEL // 2, 0), groups=features)
        self.norm = nn.LayerNorm(features, eps=_NORM_EPSILON)

    def forward(self, signal: Tensor, mask: Tensor | None = None) -> Tensor:
        maps = signal.unsqueeze(2).permute(0, 3, 1, 2)
        position = self.conv(hide_padding(maps, map_mask(mask)))
        return add_into(self.norm(position.permute(0, 2, 3, 1).squeeze(2)), signal)


class FrameFeedForward(nn.Module):
    """Two layers on every frame for itself: no context in time (official ``fc``)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.feed_in = nn.Linear(features, 2 * features)
        self.norm = nn.LayerNorm(2 * features, eps=_NORM_EPSILON)
        self.feed_out = nn.Linear(2 * features, features)

    def forward(self, signal: Tensor, mask: Tensor | None = None) -> Tensor:
        result: Tensor = self.feed_out(functional.gelu(self.norm(self.feed_in(signal))))
        return result


class TimeContext(nn.Module):
    """Reduce the features, look along time, expand them again, add to what came in."""

    def __init__(self, features: int, hidden: int, kind: str) -> None:
        super().__init__()
        self.reduce = nn.Linear(features, hidden)
        self.norm = nn.LayerNorm(hidden, eps=_NORM_EPSILON)
        self.layers = nn.ModuleList(_layers(kind, hidden))
        self.expand = nn.Linear(hidden, features)

    def forward(self, signal: Tensor, mask: Tensor | None = None) -> Tensor:
        hidden = self.norm(self.reduce(signal))
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return add_into(self.expand(hidden), signal)


def _layers(kind: str, hidden: int) -> list[nn.Module]:
    if kind == "fc":
        return [FrameFeedForward(hidden)]
    if kind == "conv":
        return [TimeConv(hidden, (7, 15, 31)) for _ in range(4)]
    if kind == "att":
        return [PositionConv(hidden), TransformerBlock(hidden, 2 * hidden)]
    return [*(TimeConv(hidden, (kernel,)) for kernel in (7, 19, 31, 59)), TransformerBlock(hidden, hidden)]


def check_context(kind: str, features: int, reduction: int | None, where: str) -> None:
    """Raise a ConfigError, which begins with ``where``, if a time context of that kind cannot be built."""
    if reduction is None:
        return
    hidden = features // reduction
    heads = ATTENTION_HEADS if "att" in kind else 1
    if hidden < 1 or hidden % heads:
        raise ConfigError(
            f"{where}: a time-context reduction of {reduction} leaves {hidden} of {features} features, "
            f"which {heads} attention heads cannot share"
        )

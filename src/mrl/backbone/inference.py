"""The encoder and pooling for inference only: the same arithmetic with everything folded that is fixed once training is over.

BatchNorms are in the convolutions, the softmax of every weighted sum is taken, reshaping convolutions are matrix products, bias,
residual and activation belong to the convolution before them, and residuals are added in place. Nothing here can be trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrl.backbone.base import Encoder
from mrl.backbone.blocks import ConvNeXtBlock, ResidualBlock, Squeeze
from mrl.backbone.context import FrameFeedForward, PositionConv, SelfAttention, TimeContext, TimeConv, TransformerBlock
from mrl.backbone.convolution import Activation, InferenceConv, as_maps, as_signal
from mrl.backbone.encoder import FrameEncoder, Stage
from mrl.backbone.folding import Affine, Kernel, affine_of
from mrl.backbone.masking import hide_padding, map_mask
from mrl.backbone.pooling import AttentiveStatistics, _attention_weights, _deviation, _mean, _weighted_statistics
from mrl.backbone.sums import WeightedSum

# Merging groups of 4 in pairs was faster than leaving them and than groups of 16, in float32 and in bfloat16 (AVX-512).
_GROUP_INPUTS = 8
# Up to so many channels convolutions are as fast in float32 as in bfloat16; with b5's 64 they take 1.1 times as long.
_NARROW = 16


def _linear(layer: nn.Linear, activation: Activation = "none") -> InferenceConv:
    return InferenceConv(Kernel.of(layer), activation=activation)


class InferenceConvNeXt(nn.Module):
    """ConvNeXtBlock: per kernel a convolution with norm and activation in it, and its own share of the 1x1 convolution."""

    def __init__(self, source: ConvNeXtBlock) -> None:
        super().__init__()
        norm, pointwise = affine_of(source.norm), Kernel.of(source.pointwise)
        channels = pointwise.weight.shape[0]
        self.convs, self.pointwise = nn.ModuleList(), nn.ModuleList()
        for index, conv in enumerate(source.convs):
            assert isinstance(conv, nn.Conv2d)
            own = slice(index * channels, (index + 1) * channels)
            kernel = Kernel.of(conv).then(type(norm)(norm.scale[own], norm.shift[own])).merged(_GROUP_INPUTS)
            self.convs.append(InferenceConv(kernel, padding=_padding(conv), activation="relu" if source.relu else "gelu"))
            bias = pointwise.bias if index == 0 else torch.zeros_like(pointwise.bias)
            self.pointwise.append(InferenceConv(Kernel(pointwise.weight[:, own], bias)))

    def forward(self, maps: Tensor, mask: Tensor | None = None) -> Tensor:
        visible = hide_padding(maps, mask)
        hidden = [conv(visible) for conv in self.convs]
        for pointwise, each in zip(self.pointwise, hidden, strict=True):
            maps = pointwise(each, maps)
        return maps


class InferenceResidual(nn.Module):
    """ResidualBlock: the norm between the two 3x3 convolutions is in the first one and in the ReLU before it.

    ``scale * relu(x) + shift`` is ``max(scale * x + shift, shift)`` for positive scales: with the norm in the convolution, one
    lower bound per channel is left, and the zeros of the padding still come after the norm. For negative scales the map changes
    its sign, and so do the weights that read it.
    """

    floor: Tensor

    def __init__(self, source: ResidualBlock, bands: int) -> None:
        super().__init__()
        norm1, norm2 = affine_of(source.norm1), affine_of(source.norm2)
        sign = torch.where(norm1.scale < 0, -1.0, 1.0).to(norm1.scale)
        norm1 = Affine(norm1.scale.abs(), norm1.shift * sign)
        conv1, conv2 = Kernel.of(source.conv1), Kernel.of(source.conv2).after(Affine(sign, torch.zeros_like(sign)))
        padding = _padding(source.conv1)
        if source.pointwise1 is None:
            conv1, self.pointwise1 = conv1.then(norm1), None
        else:
            self.pointwise1 = InferenceConv(Kernel.of(source.pointwise1).then(norm1))
        if source.pointwise2 is None:
            conv2, self.pointwise2 = conv2.then(norm2), None
        else:
            last: Activation = "relu" if source.excitation is None else "none"
            self.pointwise2 = InferenceConv(Kernel.of(source.pointwise2).then(norm2), activation=last)
        self.conv1 = InferenceConv(conv1.merged(_GROUP_INPUTS), padding=padding)
        self.conv2 = InferenceConv(conv2.merged(_GROUP_INPUTS), padding=padding)
        self.register_buffer("floor", norm1.shift.repeat(bands))  # over the bands, so that a frame is one contiguous row
        self.excitation = source.excitation

    def forward(self, maps: Tensor, mask: Tensor | None = None) -> Tensor:
        hidden: Tensor = self.conv1(hide_padding(maps, mask))
        if self.pointwise1 is not None:
            hidden = self.pointwise1(hidden)
        hidden = self.conv2(hide_padding(self._bounded(hidden), mask))
        if self.pointwise2 is not None:
            if self.excitation is None:
                result: Tensor = self.pointwise2(hidden, maps)
                return result
            hidden = self.pointwise2(hidden)
        if self.excitation is None:
            return functional.relu_(hidden.add_(maps))
        return maps.addcmul_(hidden, self.excitation(hidden, mask)).relu_()

    def _bounded(self, maps: Tensor) -> Tensor:
        batch, channels, frames, bands = maps.shape
        return as_signal(maps).clamp_(min=self.floor).view(batch, frames, bands, channels).permute(0, 3, 1, 2)


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
            self.conv = InferenceConv(kernel, padding=_padding(source.conv))
        else:
            self.conv = InferenceConv(kernel.merged(_GROUP_INPUTS), padding=_padding(source.conv), activation="gelu")
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


class InferenceAttention(nn.Module):
    """SelfAttention, output product added to the residual."""

    def __init__(self, source: SelfAttention) -> None:
        super().__init__()
        self.num_heads = source.num_heads
        self.query_key_value = _linear(source.query_key_value)
        self.output = _linear(source.output)

    def forward(self, signal: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return signal plus attention, written over the signal ``(batch, frames, features)``."""
        batch, frames, features = signal.shape
        maps = as_maps(signal)
        heads = as_signal(self.query_key_value(maps)).view(batch, frames, 3, self.num_heads, features // self.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        keys_seen = None if mask is None else mask[:, None, None, :]
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=keys_seen)
        return as_signal(self.output(as_maps(mixed.transpose(1, 2).reshape(batch, frames, features)), maps))


class InferenceTransformer(nn.Module):
    """TransformerBlock."""

    def __init__(self, source: TransformerBlock) -> None:
        super().__init__()
        self.attention = InferenceAttention(source.attention)
        self.norm1, self.norm2 = source.norm1, source.norm2
        self.feed_in = _linear(source.feed_in, "gelu_tanh")
        self.feed_out = _linear(source.feed_out)

    def forward(self, signal: Tensor, mask: Tensor | None = None) -> Tensor:
        signal = self.norm1(self.attention(signal, mask))
        maps = as_maps(signal)
        result: Tensor = self.norm2(as_signal(self.feed_out(self.feed_in(maps), maps)))
        return result


class InferenceTimeConv(nn.Module):
    """TimeConv."""

    def __init__(self, source: TimeConv) -> None:
        super().__init__()
        self.block = InferenceConvNeXt(source.block)

    def forward(self, signal: Tensor, mask: Tensor | None = None) -> Tensor:
        mixed: Tensor = self.block(as_maps(signal), map_mask(mask))
        return as_signal(mixed)


class InferencePositionConv(nn.Module):
    """PositionConv."""

    def __init__(self, source: PositionConv) -> None:
        super().__init__()
        self.conv = InferenceConv(Kernel.of(source.conv), padding=_padding(source.conv))
        self.norm = source.norm

    def forward(self, signal: Tensor, mask: Tensor | None = None) -> Tensor:
        position = self.conv(hide_padding(as_maps(signal), map_mask(mask)))
        result: Tensor = signal + self.norm(as_signal(position))
        return result


class InferenceFeedForward(nn.Module):
    """FrameFeedForward."""

    def __init__(self, source: FrameFeedForward) -> None:
        super().__init__()
        self.feed_in, self.norm, self.feed_out = _linear(source.feed_in), source.norm, _linear(source.feed_out)

    def forward(self, signal: Tensor, mask: Tensor | None = None) -> Tensor:
        hidden = functional.gelu(self.norm(as_signal(self.feed_in(as_maps(signal)))))
        return as_signal(self.feed_out(as_maps(hidden)))


class InferenceTimeContext(nn.Module):
    """TimeContext, added to the signal in place."""

    def __init__(self, source: TimeContext) -> None:
        super().__init__()
        self.reduce, self.norm, self.expand = _linear(source.reduce), source.norm, _linear(source.expand)
        self.layers = nn.ModuleList(_context_layer(layer) for layer in source.layers)

    def forward(self, signal: Tensor, mask: Tensor | None = None) -> Tensor:
        maps = as_maps(signal)
        hidden = self.norm(as_signal(self.reduce(maps)))
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return as_signal(self.expand(as_maps(hidden), maps))


def _context_layer(layer: nn.Module) -> nn.Module:
    if isinstance(layer, TimeConv):
        return InferenceTimeConv(layer)
    if isinstance(layer, PositionConv):
        return InferencePositionConv(layer)
    if isinstance(layer, TransformerBlock):
        return InferenceTransformer(layer)
    assert isinstance(layer, FrameFeedForward)
    return InferenceFeedForward(layer)


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
        self.blocks = nn.ModuleList(_block(block, self.bands) for block in source.blocks)
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


def _block(block: nn.Module, bands: int) -> nn.Module:
    if isinstance(block, ConvNeXtBlock):
        return InferenceConvNeXt(block)
    assert isinstance(block, ResidualBlock)
    return InferenceResidual(block, bands)


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
        # With one channel any memory is channels-last; the strides must say so.
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


class InferenceAttentiveStatistics(nn.Module):
    """AttentiveStatistics."""

    def __init__(self, source: AttentiveStatistics) -> None:
        super().__init__()
        self.features = source.features
        self.pooled_dim = source.pooled_dim
        kernel = Kernel.of(source.hidden)
        self.global_context = source.global_context
        self.context = None
        if source.global_context:
            self.context = InferenceConv(Kernel(kernel.weight[:, source.features :], kernel.bias))
            kernel = Kernel(kernel.weight[:, : source.features], torch.zeros_like(kernel.bias))
        self.hidden = InferenceConv(kernel)
        self.logits = _linear(source.logits)

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        exact = frames.float()
        hidden = as_signal(self.hidden(as_maps(frames)))
        if self.context is not None:
            mean = _mean(exact, mask)
            context = torch.cat([mean, _deviation(exact, mean, mask)], dim=1).to(frames.dtype)
            hidden = hidden + as_signal(self.context(as_maps(context.unsqueeze(1))))
        logits = as_signal(self.logits(as_maps(hidden.tanh())))
        return _weighted_statistics(exact, _attention_weights(logits, mask))


def _padding(conv: nn.Conv2d) -> tuple[int, int]:
    height, width = conv.kernel_size
    return height // 2, width // 2

"""Shared layers for inference only, and the copy of a network that is made of them: all is folded that is fixed after training.

BatchNorms are in the convolutions, the softmax of every weighted sum is taken, reshaping convolutions are matrix products, bias,
residual and activation belong to the convolution before them, and residuals are added in place. Nothing here can be trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrl.backbone.encoder import Encoder
from mrl.backbone.folding import Activation, Affine, InferenceConv, Kernel, affine_of
from mrl.backbone.layers import (
    ConvNeXtBlock,
    FrameFeedForward,
    PositionConv,
    ResidualBlock,
    SelfAttention,
    TimeContext,
    TimeConv,
    TransformerBlock,
    as_maps,
    as_signal,
    hide_padding,
    map_mask,
)
from mrl.backbone.pooling import AttentiveStatistics, LaterFrames, _attention_weights, _deviation, _mean, _weighted_statistics
from mrl.backbone.sums import FixedSum, WeightedSum

if TYPE_CHECKING:
    from typing_extensions import Self

# Merging groups of 4 in pairs was faster than leaving them and than groups of 16, in float32 and in bfloat16 (AVX-512).
GROUP_INPUTS = 8


class InferenceEncoder(Encoder):
    """What the inference forms of all encoders have in common."""

    final_sum: FixedSum
    exact_stages = 0
    """How many of the first stages are never less precise than float32."""

    def __init__(self, source: Encoder) -> None:
        super().__init__()
        assert isinstance(source.stem, nn.Conv2d) and isinstance(source.final_sum, WeightedSum)
        self.stem = InferenceConv(Kernel.of(source.stem), padding=padding_of(source.stem))
        self.stem_norm = source.stem_norm
        self.final_sum = source.final_sum.for_inference()
        self.outputs_after = source.outputs_after
        self.frame_dim, self.numbers_per_frame = source.frame_dim, source.numbers_per_frame

    def in_dtype(self, dtype: torch.dtype) -> Self:
        """Convert the weights, in place, and return the encoder.

        The stem is never less precise than float32: nearly all that bfloat16 changes in an embedding of b0 comes from rounding
        its weights and those of the first stage, and with so few channels they are no faster for it.
        """
        exact = [self.stem, self.stem_norm, *self.stages[: self.exact_stages]]
        for part in (*self.children(), *self.stages):
            if part is not self.stages:
                part.to(torch.float32 if part in exact else dtype)
        return self

    def stage_outputs(self, features: Tensor, mask: Tensor | None = None, depth: int | None = None) -> list[Tensor]:
        outputs = [self.stem_output(features, mask)]
        stages = list(self.stages)[:depth]
        for stage in stages[: self.exact_stages]:
            outputs.extend(stage(outputs, mask))
        outputs = [output.to(self.final_sum.weights.dtype) for output in outputs]
        for stage in stages[self.exact_stages :]:
            outputs.extend(stage(outputs, mask))
        return outputs

    def stem_output(self, features: Tensor, mask: Tensor | None) -> Tensor:
        maps = hide_padding(features.to(self.stem_norm.weight.dtype).unsqueeze(1), map_mask(mask)).contiguous()
        # With one channel any contiguous memory is channels-last; the strides must say so.
        maps = self.stem(maps.as_strided(maps.shape, (maps.shape[2] * maps.shape[3], 1, maps.shape[3], 1)))
        signal: Tensor = self.stem_norm(maps.permute(0, 2, 3, 1)).flatten(2)
        return signal


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
            kernel = Kernel.of(conv).then(type(norm)(norm.scale[own], norm.shift[own])).merged(GROUP_INPUTS)
            self.convs.append(InferenceConv(kernel, padding=padding_of(conv), activation="relu" if source.relu else "gelu"))
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
        padding = padding_of(source.conv1)
        if source.pointwise1 is None:
            conv1, self.pointwise1 = conv1.then(norm1), None
        else:
            self.pointwise1 = InferenceConv(Kernel.of(source.pointwise1).then(norm1))
        if source.pointwise2 is None:
            conv2, self.pointwise2 = conv2.then(norm2), None
        else:
            last: Activation = "relu" if source.excitation is None else "none"
            self.pointwise2 = InferenceConv(Kernel.of(source.pointwise2).then(norm2), activation=last)
        self.conv1 = InferenceConv(conv1.merged(GROUP_INPUTS), padding=padding)
        self.conv2 = InferenceConv(conv2.merged(GROUP_INPUTS), padding=padding)
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
        self.conv = InferenceConv(Kernel.of(source.conv), padding=padding_of(source.conv))
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


def inference_block(block: nn.Module, bands: int) -> nn.Module:
    """Return the inference form of a 2-D block on maps of ``bands`` bands."""
    if isinstance(block, ConvNeXtBlock):
        return InferenceConvNeXt(block)
    assert isinstance(block, ResidualBlock)
    return InferenceResidual(block, bands)


def padding_of(conv: nn.Conv2d) -> tuple[int, int]:
    """Return the zeros around the maps, (frames, bands), with which a convolution of odd kernel keeps their size."""
    height, width = conv.kernel_size
    return height // 2, width // 2


def inference_pooling(pooling: nn.Module) -> nn.Module:
    """Return the inference form of a pooling; without weights to fold it is the pooling itself."""
    if isinstance(pooling, LaterFrames):
        return LaterFrames(inference_pooling(pooling.inner), pooling.skipped)
    return InferenceAttentiveStatistics(pooling) if isinstance(pooling, AttentiveStatistics) else pooling


def fold_norm(weight: Tensor, bias: Tensor, norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Return the affine map ``(outputs, inputs)``, ``(outputs,)`` with the BatchNorm before it folded in."""
    kernel = Kernel(weight.detach().double()[:, :, None, None], bias.detach().double()).after(affine_of(norm))
    return kernel.weight[:, :, 0, 0].to(weight.dtype), kernel.bias.to(bias.dtype)


@torch.no_grad()
def assign(layer: nn.Linear, kernel: Kernel) -> None:
    """Give a linear layer the weights of a 1x1 convolution."""
    layer.weight.copy_(kernel.weight[:, :, 0, 0])
    layer.bias.copy_(kernel.bias)

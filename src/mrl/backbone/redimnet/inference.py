"""The encoder of the first generation for inference only, see :mod:`mrl.backbone.inference`."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from mrl.backbone.folding import InferenceConv, Kernel, affine_of
from mrl.backbone.inference import GROUP_INPUTS, InferenceEncoder, InferenceTimeContext, inference_block, padding_of
from mrl.backbone.layers import as_maps, as_signal, hide_padding
from mrl.backbone.redimnet.encoder import FrameEncoder, Squeeze, Stage, StageSteps

# Up to this many channels convolutions are as fast in float32 as in bfloat16; with b5's 64 they take 1.1 times as long.
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


class InferenceStage(StageSteps):
    """Stage; the strided convolution over bands is a matrix product, for its steps do not overlap."""

    def __init__(self, source: Stage) -> None:
        super().__init__()
        reshape = Kernel.of(source.reshape)
        width, channels, _, stride = reshape.weight.shape
        self.bands = source.bands // stride
        self.weighted_sum = source.weighted_sum.for_inference()
        by_memory = reshape.weight.permute(0, 3, 2, 1).reshape(width, stride * channels, 1, 1)
        self.reshape = InferenceConv(Kernel(by_memory, reshape.bias))
        self.blocks = nn.ModuleList(inference_block(block, self.bands) for block in source.blocks)
        self.squeeze = None if source.squeeze is None else InferenceSqueeze(source.squeeze)
        self.context = None if source.context is None else InferenceTimeContext(source.context)


class InferenceFrameEncoder(InferenceEncoder):
    """FrameEncoder: ``(batch, frames, bands)`` log-mel features -> ``(batch, frames, frame_dim)`` frame features."""

    def __init__(self, source: FrameEncoder) -> None:
        super().__init__(source)
        stages = [stage for stage in source.stages if isinstance(stage, Stage)]
        self.stages = nn.ModuleList(map(InferenceStage, stages))
        self.exact_stages = 1 if stages[0].reshape.out_channels <= _NARROW else 0
        self.frame_projection = None
        if source.frame_projection is not None and source.frame_norm is not None:
            kernel = Kernel.of(source.frame_projection).then(affine_of(source.frame_norm))
            self.frame_projection = InferenceConv(kernel)

    def project_frames(self, summed: Tensor) -> Tensor:
        return summed if self.frame_projection is None else as_signal(self.frame_projection(as_maps(summed)))

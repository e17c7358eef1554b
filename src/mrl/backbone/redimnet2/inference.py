"""The second generation for inference only, see :mod:`mrl.backbone.inference`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mrl.backbone.folding import InferenceConv, Kernel, affine_of
from mrl.backbone.frontend import FrontEnd
from mrl.backbone.inference import InferenceEncoder, InferenceTimeContext, inference_block
from mrl.backbone.layers import SignalGroupNorm
from mrl.backbone.redimnet2.encoder import FrameEncoder, Stage, StageSteps
from mrl.backbone.redimnet2.frontend import FourierFrontEnd, windowed_kernels

_KERNEL_TOLERANCE = 1e-4


class FastFourierFrontEnd(FourierFrontEnd):
    """FourierFrontEnd whose kernels are those of the Fourier transform, which is faster than a product with them."""

    window: Tensor

    def __init__(self, source: FourierFrontEnd) -> None:
        nn.Module.__init__(self)
        self.config, self.spec_augment = source.config, source.spec_augment
        self.register_buffer("pre_emphasis_filter", source.pre_emphasis_filter)
        self.register_buffer("window", source.real_kernels[0].clone())  # the cosine of frequency zero is one
        self.register_buffer("filters", source.filters)

    def power(self, frames: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(frames * self.window, n=self.config.n_fft)[..., :-1]
        return torch.view_as_real(spectrum).square().sum(dim=-1)


def folded_front_end(front_end: FrontEnd) -> FrontEnd:
    """Return a faster front end with the same features, or the same one where its kernels are no plain Fourier transform."""
    if not isinstance(front_end, FourierFrontEnd):
        return front_end
    config = front_end.config
    for kernels, expected in zip(
        (front_end.real_kernels, front_end.imaginary_kernels), windowed_kernels(config.window_length, config.n_fft), strict=True
    ):
        if float((kernels.cpu() - expected).abs().max()) > _KERNEL_TOLERANCE:
            return front_end
    return FastFourierFrontEnd(front_end).to(front_end.filters.device)


class InferenceGroupNorm(SignalGroupNorm):
    """SignalGroupNorm with its weights as buffers; statistics are taken in float32."""

    def __init__(self, source: SignalGroupNorm) -> None:
        nn.Module.__init__(self)
        self.groups, self.eps = source.groups, source.eps
        self.register_buffer("weight", source.weight.detach().double())
        self.register_buffer("bias", source.bias.detach().double())


class InferenceReshape(nn.Module):
    """The strided convolution over bands and frames, whose steps do not overlap: a matrix product, or a sum per channel.

    With as many groups as input channels (which the released networks have) it is a product and a sum over the few inputs of each
    output, for which libraries have no fast kernel as a convolution.
    """

    def __init__(self, source: nn.Conv2d, bands: int) -> None:
        super().__init__()
        kernel = Kernel.of(source)
        self.outputs, self.inputs, self.time_stride, self.band_stride = kernel.weight.shape
        self.groups, self.bands = kernel.groups, bands
        if self.groups > 1 and self.inputs == 1:
            # (outputs, 1, time, band) -> (time, band, channel, outputs per channel)
            share = self.outputs // self.groups
            by_channel = kernel.weight.reshape(self.groups, share, self.time_stride, self.band_stride)
            self.register_buffer("weight", by_channel.permute(2, 3, 0, 1).contiguous())
            self.register_buffer("bias", kernel.bias)
            self.conv = None
        else:
            dense = Kernel(kernel.weight, kernel.bias, kernel.groups)
            if self.groups > 1:
                dense = dense.merged(self.groups * self.inputs)
            by_memory = dense.weight.permute(0, 2, 3, 1).reshape(self.outputs, -1, 1, 1)
            self.conv = InferenceConv(Kernel(by_memory, dense.bias, dense.groups))

    weight: Tensor
    bias: Tensor

    def forward(self, signal: Tensor) -> Tensor:
        """``(batch, frames, bands * channels)`` -> maps ``(batch, outputs, frames / stride, bands / stride)``."""
        batch, _, features = signal.shape
        size = (self.time_stride, self.bands // self.band_stride, self.band_stride, features // self.bands)
        steps = signal.view(batch, -1, *size)
        if self.conv is not None:
            by_step = steps.permute(0, 1, 3, 2, 4, 5).flatten(3)
            maps: Tensor = self.conv(by_step.permute(0, 3, 1, 2))
            return maps
        total: Tensor | None = None
        for frame in range(self.time_stride):
            for band in range(self.band_stride):
                part = steps[:, :, frame, :, band, :, None]
                weight = self.weight[frame, band]
                if total is None:
                    total = torch.addcmul(self.bias.view_as(weight), part, weight)
                else:
                    total.addcmul_(part, weight)
        assert total is not None
        return total.flatten(3).permute(0, 3, 1, 2)


class InferenceStage(StageSteps):
    """Stage with its norms in the convolutions; what is squeezed is one product."""

    def __init__(self, source: Stage) -> None:
        super().__init__()
        self.time_stride, self.two_maps = source.time_stride, source.two_maps
        self.weighted_sum = source.weighted_sum.for_inference()
        position = source.band_embedding
        self.register_buffer("band_embedding", None if position is None else position.detach().flatten().double())
        self.reshape = InferenceReshape(source.reshape, source.bands_in)
        bands = source.bands_in // source.reshape.stride[1]
        self.blocks = nn.ModuleList(inference_block(block, bands) for block in source.blocks)
        squeeze = source.squeeze
        self.squeeze = None if squeeze is None else InferenceConv(Kernel.of(squeeze.conv).then(affine_of(squeeze.norm)))
        self.context = None if source.context is None else InferenceTimeContext(source.context)
        self.norm = None if source.norm is None else InferenceGroupNorm(source.norm)
        self.norm_before = None if source.norm_before is None else InferenceGroupNorm(source.norm_before)

    def to_maps(self, summed: Tensor) -> Tensor:
        maps: Tensor = self.reshape(summed)
        return maps


class InferenceFrameEncoder(InferenceEncoder):
    """FrameEncoder: ``(batch, frames, bands)`` log-mel features -> ``(batch, frames, frame_dim)`` frame features."""

    def __init__(self, source: FrameEncoder) -> None:
        super().__init__(source)
        self.stem_group_norm = None if source.stem_group_norm is None else InferenceGroupNorm(source.stem_group_norm)
        self.stages = nn.ModuleList(InferenceStage(stage) for stage in source.stages if isinstance(stage, Stage))
        self.head_bands = source.head_bands
        self.frame_projection = None
        if source.frame_projection is not None:
            self.frame_projection = InferenceConv(Kernel.of(source.frame_projection))

    def stem_output(self, features: Tensor, mask: Tensor | None) -> Tensor:
        signal = super().stem_output(features, mask).to(self.final_sum.weights.dtype)
        return signal if self.stem_group_norm is None else self.stem_group_norm(signal, mask)

    def project_frames(self, summed: Tensor) -> Tensor:
        maps = summed.view(*summed.shape[:2], self.head_bands, -1)
        if self.frame_projection is None:
            return maps.transpose(2, 3).flatten(2)
        projected: Tensor = self.frame_projection(maps.permute(0, 3, 1, 2))
        return projected.permute(0, 2, 1, 3).flatten(2)

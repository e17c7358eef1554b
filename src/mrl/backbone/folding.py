"""Folding normalisations into convolutions, and a convolution with fixed weights for inference.

With fixed statistics a BatchNorm is one scale and one shift per channel. After a convolution it goes into the weights and the
bias; before one too, unless that one pads with zeros: the padding is zero *after* the norm. The arithmetic on weights is done
once, in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Activation = Literal["none", "relu", "gelu", "gelu_tanh"]

_ONE = (1, 1)
_MOST_SHAPES = 1024
_VECTOR = 16  # values in the widest vector registers; oneDNN's fused activations are slow on narrower groups of channels


@dataclass(frozen=True)
class Affine:
    """Scale and shift per channel, ``(channels,)`` each, float64."""

    scale: Tensor
    shift: Tensor


@dataclass(frozen=True)
class Kernel:
    """Weight ``(outputs, inputs per group, height, width)`` and bias ``(outputs,)`` of a convolution with ``groups``, float64."""

    weight: Tensor
    bias: Tensor
    groups: int = 1

    @classmethod
    def of(cls, layer: nn.Conv2d | nn.Linear) -> Kernel:
        """Take over a layer; a linear one is a 1x1 convolution."""
        weight = layer.weight.detach().double()
        bias = weight.new_zeros(weight.shape[0]) if layer.bias is None else layer.bias.detach().double()
        if isinstance(layer, nn.Linear):
            return cls(weight[:, :, None, None], bias)
        return cls(weight, bias, layer.groups)

    def then(self, norm: Affine) -> Kernel:
        """Return the convolution followed by scale and shift."""
        return Kernel(self.weight * norm.scale[:, None, None, None], self.bias * norm.scale + norm.shift, self.groups)

    def after(self, norm: Affine) -> Kernel:
        """Return scale and shift followed by the convolution: exact wherever the kernel does not reach over an edge."""
        scale, shift = (_by_group(each, self) for each in (norm.scale, norm.shift))
        return Kernel(self.weight * scale, self.bias + (self.weight * shift).sum(dim=(1, 2, 3)), self.groups)

    def merged(self, inputs_per_group: int) -> Kernel:
        """Return the same convolution with fewer, wider groups, zeros between what was apart.

        Libraries have no fast kernel for groups of a few channels: a few products with zero cost less than a slow kernel. Groups
        are merged as long as they divide and keep to ``inputs_per_group``; depthwise convolutions stay, for those are fast.
        """
        outputs, inputs = self.weight.shape[0] // self.groups, self.weight.shape[1]
        fits = [n for n in range(1, self.groups + 1) if self.groups % n == 0 and n * inputs <= inputs_per_group]
        if inputs == 1 or max(fits, default=1) == 1:
            return self
        together = fits[-1]
        weight = self.weight.new_zeros(self.weight.shape[0], inputs * together, *self.weight.shape[2:])
        for group in range(self.groups):
            place = group % together
            weight[group * outputs : (group + 1) * outputs, place * inputs : (place + 1) * inputs] = self.weight[
                group * outputs : (group + 1) * outputs
            ]
        return Kernel(weight, self.bias, self.groups // together)


def _by_group(values: Tensor, kernel: Kernel) -> Tensor:
    """Values per input channel, ``(inputs,)``, broadcast against the weight: ``(outputs, inputs per group, 1, 1)``."""
    outputs = kernel.weight.shape[0] // kernel.groups
    return values.reshape(kernel.groups, -1).repeat_interleave(outputs, dim=0)[:, :, None, None]


def affine_of(norm: nn.modules.batchnorm._BatchNorm) -> Affine:
    """Return what a BatchNorm does in evaluation mode."""
    mean, variance, weight, bias = norm.running_mean, norm.running_var, norm.weight, norm.bias
    assert mean is not None and variance is not None
    scale = weight.detach().double() / (variance.detach().double() + norm.eps).sqrt()
    return Affine(scale, bias.detach().double() - mean.detach().double() * scale)


class InferenceConv(nn.Module):
    """``activation(conv(maps) + bias + residual)``; the residual is overwritten by the result where that saves memory traffic.

    Weights are buffers: there is nothing here to train.

    Args:
        kernel: weight, bias and groups.
        padding: zeros around the maps, (frames, bands).
        stride: step, (frames, bands).
        activation: applied last.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, kernel: Kernel, *, padding: tuple[int, int] = (0, 0), activation: Activation = "none") -> None:
        super().__init__()
        self.register_buffer("weight", kernel.weight.clone(memory_format=torch.channels_last))
        self.register_buffer("bias", kernel.bias)
        self.groups = kernel.groups
        self.padding = padding
        self.activation = activation
        self._layouts: _PackedWeights | None = None

    def pack(self) -> None:
        """From now on compute by oneDNN, with the weights in its own layout. For CPU only, and for good."""
        self._layouts = _PackedWeights(self.weight, self.padding, self.groups)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> InferenceConv:
        before = self.weight
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self._layouts is not None and self.weight is not before:
            # Moved or converted: pack again where that is possible, else use plain operations.
            self._layouts = None
            if self.weight.device.type == "cpu" and can_pack(self.weight.dtype):
                self.pack()
        return self

    def forward(self, maps: Tensor, residual: Tensor | None = None) -> Tensor:
        if self._layouts is None:
            result = functional.conv2d(maps, self.weight, self.bias, padding=self.padding, groups=self.groups)
            return self._activate(result if residual is None else result + residual)
        convolution = (self._layouts.fitting(maps.shape), self.bias, self.padding, _ONE, _ONE, self.groups)
        if residual is not None:
            unary = "relu" if self.activation == "relu" else None
            summed: Tensor = torch.ops.mkldnn._convolution_pointwise_.binary(
                residual, maps, *convolution, "add", 1.0, unary, [], None
            )
            return summed if unary else self._activate(summed)
        name, algorithm = self._fused()
        result = torch.ops.mkldnn._convolution_pointwise(maps, *convolution, name, [], algorithm)
        return self._activate(result) if name == "none" else result

    def _fused(self) -> tuple[str, str]:
        if self.activation == "relu":
            return "relu", ""
        if self.activation == "gelu_tanh":
            return "gelu", "tanh"
        if self.activation == "gelu" and (self.bias.shape[0] // self.groups) % _VECTOR == 0:
            return "gelu", "none"
        return "none", ""

    def _activate(self, maps: Tensor) -> Tensor:
        if self.activation == "none":
            return maps
        if self.activation == "relu":
            return functional.relu_(maps)
        # Seen in the order of its memory the map is contiguous, and contiguous tensors have the faster GELU.
        in_order = maps.permute(0, 2, 3, 1)
        return functional.gelu(in_order, approximate="tanh" if self.activation == "gelu_tanh" else "none").permute(0, 3, 1, 2)


class _PackedWeights:
    """One weight in oneDNN's layouts. Which layout is fast depends on the shape of the maps, and the wrong one is very slow.

    So a weight is packed again for every new shape, which costs about as much as one call with a weight that is not packed; of
    equal layouts one is kept. They are no buffers, for such tensors can be neither moved nor saved.
    """

    def __init__(self, weight: Tensor, padding: tuple[int, int], groups: int) -> None:
        self._weight, self._padding, self._groups = weight, padding, groups
        self._by_shape: dict[tuple[int, int], Tensor] = {}
        self._by_layout: dict[bytes, Tensor] = {}

    def __reduce__(self) -> tuple[type[_PackedWeights], tuple[Tensor, tuple[int, int], int]]:
        return _PackedWeights, (self._weight, self._padding, self._groups)  # for copies and for other processes

    def fitting(self, shape: torch.Size) -> Tensor:
        """Return the weight in the layout for maps of that shape, ``(batch, channels, frames, bands)``."""
        key = (shape[0], shape[2])
        packed = self._by_shape.get(key)
        if packed is None:
            if len(self._by_shape) >= _MOST_SHAPES:
                self._by_shape.clear()
            packed = self._by_shape[key] = self._pack(shape)
        return packed

    def _pack(self, shape: torch.Size) -> Tensor:
        reorder, ops = torch.ops.mkldnn._reorder_convolution_weight, torch.ops.mkldnn
        packed: Tensor = reorder(self._weight, self._padding, _ONE, _ONE, self._groups, list(shape))
        layout = ops._get_mkldnn_serialized_md(packed).numpy().tobytes()
        return self._by_layout.setdefault(layout, packed)


def can_pack(dtype: torch.dtype) -> bool:
    """Return whether oneDNN computes in ``dtype`` on this processor."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32

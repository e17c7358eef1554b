"""A convolution with fixed weights for inference: bias, residual and activation in one call, weights packed for the processor.

All maps are ``(batch, channels, frames, bands)`` in channels-last memory; a linear layer on a signal is a 1x1 convolution on maps
with one band.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mrl.backbone.folding import Kernel

Activation = Literal["none", "relu", "gelu", "gelu_tanh"]

_ONE = (1, 1)
_MOST_SHAPES = 1024
_VECTOR = 16  # numbers in the widest vector registers; oneDNN's fused activations are slow on narrower groups of channels


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
            # Moved or converted: pack again where that is possible, else go on with plain operations.
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

    So a weight is packed anew for every shape that has not been seen, which costs about as much as one call with a weight that is
    not packed; of equal layouts one is kept. They are no buffers, for such tensors can be neither moved nor saved.
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


def as_maps(signal: Tensor) -> Tensor:
    """See a signal ``(batch, frames, features)`` as maps with one band, without copying."""
    return signal.unsqueeze(2).permute(0, 3, 1, 2)


def as_signal(maps: Tensor) -> Tensor:
    """See maps ``(batch, channels, frames, bands)`` as a signal ``(batch, frames, bands * channels)``, without copying."""
    return maps.permute(0, 2, 3, 1).flatten(2)


def can_pack(dtype: torch.dtype) -> bool:
    """Return whether oneDNN computes in ``dtype`` on this processor."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32

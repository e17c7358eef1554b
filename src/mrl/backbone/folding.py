"""Folding normalisations into the convolutions beside them: arithmetic on weights, done once, in float64.

With fixed statistics a BatchNorm is one scale and one shift per channel. After a convolution it goes into the weights and the
bias; before one too, unless that one pads with zeros: the padding is zero *after* the norm.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


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
    """Numbers per input channel, ``(inputs,)``, as they stand against the weight: ``(outputs, inputs per group, 1, 1)``."""
    outputs = kernel.weight.shape[0] // kernel.groups
    return values.reshape(kernel.groups, -1).repeat_interleave(outputs, dim=0)[:, :, None, None]


def affine_of(norm: nn.modules.batchnorm._BatchNorm) -> Affine:
    """Return what a BatchNorm does in evaluation mode."""
    mean, variance, weight, bias = norm.running_mean, norm.running_var, norm.weight, norm.bias
    assert mean is not None and variance is not None
    scale = weight.detach().double() / (variance.detach().double() + norm.eps).sqrt()
    return Affine(scale, bias.detach().double() - mean.detach().double() * scale)

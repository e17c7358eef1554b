"""Layers in the form in which other runtimes are fast: plain BatchNorm, wider groups, attention head by head.

Each computes what the layer does that it replaces, to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mrl.backbone.blocks import MapNorm
from mrl.backbone.context import SelfAttention
from mrl.backbone.folding import Kernel

# Runtimes have fast kernels for groups as wide as a vector register and none for groups of four; measured for b2 with AVX-512.
_GROUP_INPUTS = 16


class AttentionByHead(nn.Module):
    """SelfAttention with the products over pairs of frames written out, one head after the other.

    Runtimes without a fused attention keep those ``(batch, frames, frames)`` numbers in memory: for one head at a time instead of
    for all. There is nothing to reshape either, so this costs no time.
    """

    def __init__(self, source: SelfAttention) -> None:
        super().__init__()
        features = source.output.in_features
        self.num_heads = source.num_heads
        self.size = features // source.num_heads
        self.query_key_value, self.output = source.query_key_value, source.output
        with torch.no_grad():
            self.query_key_value.weight[:features] *= self.size**-0.5
            self.query_key_value.bias[:features] *= self.size**-0.5

    def forward(self, signal: Tensor, mask: Tensor | None = None) -> Tensor:
        parts = torch.split(self.query_key_value(signal), self.size, dim=2)
        count = self.num_heads
        heads = []
        for query, key, value in zip(parts[:count], parts[count : 2 * count], parts[2 * count :], strict=True):
            weights = torch.matmul(query, key.transpose(1, 2)).softmax(dim=-1)
            heads.append(torch.matmul(weights, value))
        result: Tensor = self.output(torch.cat(heads, dim=2))
        return result


def for_other_runtimes(module: nn.Module, *, fused_attention: bool) -> nn.Module:
    """Replace layers below ``module``, in place, and return it.

    Args:
        module: on the CPU; its layers may be taken over and changed.
        fused_attention: leave attention to PyTorch's own operation, for runtimes that have it.
    """
    for name, child in module.named_children():
        if isinstance(child, MapNorm):
            setattr(module, name, plain_norm(child))
        elif isinstance(child, SelfAttention) and not fused_attention:
            setattr(module, name, AttentionByHead(child))
        elif isinstance(child, nn.Conv2d):
            setattr(module, name, with_wide_groups(child))
        else:
            for_other_runtimes(child, fused_attention=fused_attention)
    return module


def plain_norm(norm: MapNorm) -> nn.BatchNorm2d:
    """Return the norm without its fast way for eager PyTorch, which would only hide a BatchNorm from other runtimes."""
    plain = nn.BatchNorm2d(norm.num_features, eps=norm.eps)
    plain.load_state_dict(norm.state_dict())
    return plain.eval()


def with_wide_groups(conv: nn.Conv2d) -> nn.Conv2d:
    """Return the convolution with groups merged to up to 16 inputs, zeros between what was apart.

    Convolutions with one output per group stay: depthwise ones are fast, and the others are computed as depthwise ones.
    """
    if conv.groups in (1, conv.out_channels):
        return conv
    kernel = Kernel.of(conv).merged(_GROUP_INPUTS)
    if kernel.groups == conv.groups:
        return conv
    height, width = conv.kernel_size
    wide = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        (height, width),
        padding=(height // 2, width // 2),
        groups=kernel.groups,
        bias=conv.bias is not None,
    )
    with torch.no_grad():
        wide.weight.copy_(kernel.weight)
        if wide.bias is not None:
            wide.bias.copy_(kernel.bias)
    return wide

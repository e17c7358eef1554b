"""Layers in another form compute the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mrl.backbone.layers import MapNorm, SelfAttention
from mrl.backbone.redimnet.encoder import Squeeze
from mrl.deployment.network import AttentionByHead, for_other_runtimes, plain_norm, with_wide_groups


def test_attention_by_head() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(12, 4).eval()
    signal = torch.randn(2, 9, 12)
    with torch.no_grad():
        expected = attention(signal)
        torch.testing.assert_close(AttentionByHead(attention)(signal), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "outputs", "groups", "left"),
    [(32, 32, 8, 2), (24, 48, 4, 2), (12, 12, 12, 12), (12, 4, 4, 4), (64, 64, 2, 2), (8, 8, 1, 1), (40, 40, 10, 5)],
)
def test_wide_groups(inputs: int, outputs: int, groups: int, left: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups)
    wide = with_wide_groups(conv)
    assert wide.groups == left
    maps = torch.randn(2, inputs, 5, 4)
    with torch.no_grad():
        torch.testing.assert_close(wide(maps), conv(maps), rtol=1e-4, atol=1e-5)


def test_plain_norm() -> None:
    torch.manual_seed(0)
    norm = MapNorm(6, eps=1e-3).eval()
    for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
        assert tensor is not None
        nn.init.uniform_(tensor, 0.5, 2.0)
    maps = torch.randn(2, 6, 5, 4)
    plain = plain_norm(norm)
    assert type(plain) is nn.BatchNorm2d and not plain.training
    with torch.no_grad():
        torch.testing.assert_close(plain(maps), norm(maps), rtol=1e-5, atol=1e-6)


def test_every_layer_below_is_replaced() -> None:
    def network() -> nn.Sequential:
        return nn.Sequential(nn.Sequential(MapNorm(4), SelfAttention(8, 2)), Squeeze(8, 4, 1)).eval()

    for fused, kind in ((False, AttentionByHead), (True, SelfAttention)):
        replaced = for_other_runtimes(network(), fused_attention=fused)
        modules = list(replaced.modules())
        assert not any(isinstance(module, MapNorm) for module in modules)
        assert [type(module) for module in modules if isinstance(module, (AttentionByHead, SelfAttention))] == [kind]

"""A tiny backbone whose weights and running statistics are all random, so that nothing cancels by chance."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mrl.backbone import ReDimNet, ReDimNetConfig

TINY = {
    "F": 24,
    "C": 4,
    "block_1d_type": "conv+att",
    "block_2d_type": "basic_resnet",
    "stages_setup": [[1, 1, 1, [[3, 3]], 4], [2, 1, 2, [[3, 3]], 4]],
    "group_divisor": 4,
    "hop_length": 240,
    "global_context_att": True,
}


def tiny_backbone(seed: int = 0, **changes: object) -> ReDimNet:
    """Build a network of some thousand parameters in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ReDimNet(ReDimNetConfig.from_model_config({**TINY, **changes}))
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 2.0)
                nn.init.normal_(module.weight, mean=1.0, std=0.3)
                nn.init.normal_(module.bias, std=0.3)
    return model.eval()


@pytest.fixture
def backbone() -> ReDimNet:
    return tiny_backbone()


@pytest.fixture
def waveforms() -> torch.Tensor:
    """Five noisy chirps, ``(5, 8000)``."""
    generator = torch.Generator().manual_seed(1)
    time = torch.arange(8000) / 16000
    base = torch.linspace(200, 900, 5).unsqueeze(1)
    return 0.3 * torch.sin(6.28 * base * time * (1 + time)) + 0.05 * torch.randn(5, 8000, generator=generator)

"""A real ReDimNet small enough for tests, in the official format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mrl.backbone import ReDimNet, ReDimNetConfig
from mrl.pretrained import write_official_checkpoint

SMALL_CONFIG: dict[str, Any] = {
    "F": 12,
    "C": 2,
    "block_1d_type": "conv",
    "block_2d_type": "basic_resnet",
    "stages_setup": [(1, 1, 1, [(3, 3)], 4), (2, 1, 2, [(3, 3)], 4)],
    "group_divisor": 1,
    "out_channels": None,
    "embed_dim": 8,
    "hop_length": 160,
    "pooling_func": "ASTP",
    "global_context_att": True,
    "emb_bn": False,
}


def small_network() -> ReDimNet:
    """A network with random weights, the same at every call, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return ReDimNet(ReDimNetConfig.from_model_config(SMALL_CONFIG)).eval()


def write_small_checkpoint(path: Path) -> ReDimNet:
    """Write the small network as an official checkpoint and return it."""
    network = small_network()
    write_official_checkpoint(path, *network.to_official())
    return network

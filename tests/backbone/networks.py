"""Small networks with known weights, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from zlib import adler32

import numpy as np
import torch
from torch import Tensor

from mrl.backbone import ReDimNet, ReDimNetConfig
from mrl.backbone.redimnet2.config import ReDimNet2Config
from mrl.backbone.redimnet2.network import ReDimNet2

WeightRule = Callable[[str, tuple[int, ...]], Tensor]


def small_model_config(**changes: Any) -> dict[str, Any]:
    """An official model_config of a few thousand parameters; ``changes`` override its keys."""
    config: dict[str, Any] = {
        "F": 12,
        "C": 4,
        "block_1d_type": "conv+att",
        "block_2d_type": "basic_resnet_fwse",
        "stages_setup": [[1, 1, 1, [[3, 3]], None], [2, 1, 2, [[3, 3]], 6]],
        "group_divisor": 2,
        "embed_dim": 16,
        "hop_length": 240,
        "global_context_att": True,
        "spec_params": {},
    }
    return {**config, **changes}


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in [-1, 1) from a name and a shape alone, by integer arithmetic (SplitMix64), the same on every machine."""
    count = int(np.prod(shape, dtype=np.int64))
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(adler32(name.encode()) << 20)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return ((state >> np.uint64(11)).astype(np.float64) / 2.0**52 - 1.0).reshape(shape)


def weights_by_name(name: str, shape: tuple[int, ...]) -> Tensor:
    """The tensor that stands for an official entry: matrices keep the variance of their input, norms stay near the identity."""
    values = uniform(name, shape)
    if name.endswith("running_var"):
        values = 1.0 + 0.5 * values
    elif len(shape) > 1:
        values = values * np.sqrt(3.0 / np.prod(shape[1:]))
    elif name.endswith("weight"):
        values = 1.0 + 0.2 * values
    else:
        values = 0.2 * values
    return torch.from_numpy(values.astype(np.float32))


def filled_network2(model_config: Mapping[str, Any], rule: WeightRule = weights_by_name) -> ReDimNet2:
    """The same for the second generation."""
    _, state_dict = ReDimNet2(ReDimNet2Config.from_model_config(model_config)).to_official()
    _fill(state_dict, rule)
    return ReDimNet2.from_official(model_config, state_dict)


def small_model_config2(**changes: Any) -> dict[str, Any]:
    """An official model_config of the second generation with two time strides; ``changes`` override its keys."""
    config: dict[str, Any] = {
        "F": 12,
        "C": 4,
        "causal": "none",
        "agg_gnorm": True,
        "return_2d_output": True,
        "out_channels": 6,
        "stages_setup": [
            [[1, 1], 1, 2, [[3, 3]], 6],
            [[2, 2], 1, 1.5, [[3, 3]], None],
            [[1, 2], 2, 0.5, [[3, 3]], 6],
            [[3, 1], 1, 1, [[3, 3]], 12],
        ],
        "embed_dim": 16,
        "feat_type": "tf",
    }
    return {**config, **changes}


def filled_network(model_config: Mapping[str, Any], rule: WeightRule = weights_by_name) -> ReDimNet:
    """Build the network that ``model_config`` describes, through the official conversion, with weights from ``rule``.

    Front-end filters and counters keep their values.
    """
    _, state_dict = ReDimNet(ReDimNetConfig.from_model_config(model_config)).to_official()
    _fill(state_dict, rule)
    return ReDimNet.from_official(model_config, state_dict)


def _fill(state_dict: Mapping[str, Tensor], rule: WeightRule) -> None:
    for name, tensor in state_dict.items():
        if tensor.dtype.is_floating_point and (not name.startswith("spec.") or name.startswith("spec.spec_norm")):
            tensor.copy_(rule(name, tuple(tensor.shape)))


def noise(*shape: int, seed: int = 0) -> Tensor:
    """White noise at speech level."""
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Largest absolute difference, relative to the norm of the largest row of what is expected."""
    scale = expected.flatten(1).norm(dim=1).max() if expected.ndim > 1 else expected.norm()
    return float((found - expected).abs().max() / scale)

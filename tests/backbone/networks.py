"""Small networks with known weights, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from zlib import adler32

import numpy as np
import pytest
import torch
from torch import Tensor

from mrl.backbone import family_of

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


def filled_network(model_config: Mapping[str, Any], rule: WeightRule = weights_by_name) -> Any:
    """Build the network that ``model_config`` describes, of its family, through the official conversion, weights from ``rule``.

    Front-end filters and counters keep their values.
    """
    family = family_of(model_config)
    _, state_dict = family.from_model_config(model_config).to_official()
    for name, tensor in state_dict.items():
        if tensor.dtype.is_floating_point and (not name.startswith("spec.") or name.startswith("spec.spec_norm")):
            tensor.copy_(rule(name, tuple(tensor.shape)))
    return family.from_official(model_config, state_dict)


VARIATIONS: dict[str, dict[str, Any]] = {
    **{f"1-D {kind}": {"block_1d_type": kind} for kind in ("conv+att", "att", "conv", "fc")},
    **{
        f"2-D {kind}": {"block_2d_type": kind}
        for kind in ("convnext_like", "convnext_like_relu", "basic_resnet", "basic_resnet_fwse")
    },
    "no groups": {"group_divisor": None},
    "depthwise": {"group_divisor": 1},
    "frame projection and embedding norm": {"out_channels": 24, "emb_bn": True},
    "no global context": {"global_context_att": False},
    **{f"pooling {kind}": {"pooling_func": kind} for kind in ("TSTP", "TAP", "TMAP", "TSDP", "MHASTP", "MQMHASTP")},
    **{f"normalisation {kind}": {"spec_params": {"spec_norm": kind}} for kind in ("mn", "mvn", "bn")},
    "normalised signal": {"spec_params": {"norm_signal": True}},
    "no pre-emphasis": {"spec_params": {"do_preemph": False}},
}
VARIATIONS2: dict[str, dict[str, Any]] = {
    "released": {},
    "two maps": {"dual_agg": True, "agg_gnorm": 8},
    "two maps without norm": {"dual_agg": True, "agg_gnorm": False},
    "one-dimensional head": {"return_2d_output": False},
    "no head": {"out_channels": None},
    "mel front end": {"feat_type": "pt", "spec_params": {"spec_norm": "bn"}},
    "no pre-emphasis": {"spec_params": {"do_preemph": False}},
    "band embedding, ungrouped": {"use_freq_pos_enc": True, "compress_tconvs": False, "emb_bn": True},
    "several kernels": {
        "block_2d_type": "convnext_like",
        "group_divisor": 2,
        "stages_setup": [[[1, 2], 1, 2, [[3, 3], [5, 1]], 6], [[2, 2], 1, 1, [[1, 7]], 6]],
    },
    "ungrouped blocks": {"group_divisor": None, "block_2d_type": "basic_resnet_fwse"},
    **{f"1-D {kind}": {"block_1d_type": kind} for kind in ("att", "conv", "fc")},
    **{
        f"pooling {kind}": {"pooling_func": kind, "out_channels": 8}
        for kind in ("TSTP", "TAP", "TMAP", "TSDP", "MHASTP", "MQMHASTP")
    },
    "later frames": {"before_pool_offset": 3, "pad_right_samples": 500},
}
ALL_VARIATIONS = {
    **{name: small_model_config(**changes) for name, changes in VARIATIONS.items()},
    **{f"second generation, {name}": small_model_config2(**changes) for name, changes in VARIATIONS2.items()},
}
BOTH_GENERATIONS = pytest.mark.parametrize(
    "model_config", [small_model_config(), small_model_config2(dual_agg=True)], ids=["first", "second"]
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    """White noise at speech level."""
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Largest absolute difference, relative to the norm of the largest row of what is expected."""
    scale = expected.flatten(1).norm(dim=1).max() if expected.ndim > 1 else expected.norm()
    return float((found - expected).abs().max() / scale)

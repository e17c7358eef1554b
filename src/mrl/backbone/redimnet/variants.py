"""Configurations for training a ReDimNet from scratch: the published sizes, and a tiny one for tests and the demo.

A pretrained network is never built from this table, always from its own file. ``b0``, ``b2`` and ``M`` are the architectures of
the released files; ``b1``, ``b3``, ``b4``, ``b5`` and ``b6`` come close to the released ones, of which only the sizes are
published (b4 as WeSpeaker has it; b4 and b5 differ in nothing but their groups). The architecture of ``S`` is not published: this
one is made in the manner of ``M`` at about half its size. Sizes by paper: b0 1.0M, b1 2.2M, b2 4.7M, b3 3.0M, b4 6.3M, b5 9.2M,
b6 15.0M parameters (arXiv 2407.18223).
"""

from __future__ import annotations

from dataclasses import dataclass

from mrl.backbone.frontend_config import FrontEndConfig
from mrl.backbone.redimnet.config import ReDimNetConfig, StageConfig


@dataclass(frozen=True)
class _Variant:
    bands: int
    channels: int
    block_2d: str
    group_divisor: int
    stages: tuple[tuple[int, int, int, int | None], ...]  # frequency stride, blocks, expansion, time-context reduction
    hop_length: int = 240
    normalise_signal: bool = False


_B5_STAGES = ((1, 4, 2, 48), (2, 4, 2, 48), (1, 6, 2, 48), (2, 6, 1, 32), (1, 8, 1, 24), (2, 4, 1, 16))

_VARIANTS = {
    "b0": _Variant(60, 10, "basic_resnet", 1, ((1, 2, 1, 30), (2, 3, 2, 30), (1, 3, 3, 30), (2, 4, 2, 10), (1, 3, 1, 10))),
    "b1": _Variant(72, 12, "convnext_like", 8, ((1, 2, 1, None), (2, 3, 1, None), (3, 4, 1, 12), (2, 5, 1, 12), (2, 3, 1, 8))),
    "b2": _Variant(
        72, 16, "convnext_like", 4, ((1, 2, 1, 12), (2, 2, 1, 12), (1, 3, 1, 12), (3, 4, 1, 8), (1, 4, 1, 8), (2, 4, 1, 4))
    ),
    "b3": _Variant(
        72,
        16,
        "basic_resnet_fwse",
        1,
        ((1, 6, 4, 32), (2, 6, 2, 32), (1, 8, 2, 32), (2, 10, 2, 16), (1, 10, 1, 16), (2, 8, 1, 16)),
    ),
    "b4": _Variant(72, 32, "basic_resnet_fwse", 1, _B5_STAGES),
    "b5": _Variant(72, 32, "basic_resnet_fwse", 16, _B5_STAGES),
    "b6": _Variant(
        72, 32, "basic_resnet", 32, ((1, 4, 4, 32), (2, 6, 2, 32), (1, 6, 2, 24), (3, 8, 1, 24), (1, 8, 1, 16), (2, 8, 1, 16))
    ),
    "S": _Variant(
        72,
        16,
        "basic_resnet",
        8,
        ((1, 3, 2, 16), (2, 4, 2, 16), (1, 4, 2, 16), (2, 6, 1, 16), (1, 6, 1, 16), (2, 3, 1, 16)),
        hop_length=160,
        normalise_signal=True,
    ),
    "M": _Variant(
        72,
        24,
        "basic_resnet",
        8,
        ((1, 4, 2, 24), (2, 5, 2, 24), (1, 6, 2, 24), (2, 8, 1, 24), (1, 8, 1, 24), (2, 3, 1, 24)),
        hop_length=160,
        normalise_signal=True,
    ),
    "tiny": _Variant(24, 4, "convnext_like", 4, ((1, 1, 1, None), (2, 2, 1, 12), (2, 2, 1, 8))),
}


def _config(variant: _Variant) -> ReDimNetConfig:
    return ReDimNetConfig(
        front_end=FrontEndConfig(hop_length=variant.hop_length, bands=variant.bands, normalise_signal=variant.normalise_signal),
        channels=variant.channels,
        block_1d="conv+att",
        block_2d=variant.block_2d,
        stages=tuple(
            StageConfig(stride, blocks, expansion, ((3, 3),), reduction)
            for stride, blocks, expansion, reduction in variant.stages
        ),
        group_divisor=variant.group_divisor,
        pooling="ASTP",
        global_context_attention=True,
    )


VARIANTS = {name: _config(variant) for name, variant in _VARIANTS.items()}
"""By name. All have ``conv+att`` time context, attentive statistics pooling with global context, and 192-dimensional embeddings.
``tiny`` has fewer than 100,000 parameters and learns on a CPU."""

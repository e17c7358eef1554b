"""Configurations for training a ReDimNet2 from scratch: those of the authors' recipes, and a tiny one for tests.

A pretrained network is never built from this table, always from its own file. The recipes (PalabraAI/redimnet2, July 2026) have a
group norm on every map, which the first release of ``vox2`` files did not.
"""

from __future__ import annotations

from dataclasses import dataclass

from mrl.backbone.redimnet2.config import ReDimNet2Config, StageConfig
from mrl.backbone.redimnet2.frontend import FourierFrontEndConfig

_STRIDES = ((1, 1), (2, 1), (1, 2), (2, 1), (1, 2), (2, 1))
_BLOCKS = (2, 3, 4, 5, 4, 3)


@dataclass(frozen=True)
class _Variant:
    channels: int
    expansions: tuple[float, ...]
    reductions: tuple[int, ...]
    head_channels: int | None = None
    strides: tuple[tuple[int, int], ...] = _STRIDES
    blocks: tuple[int, ...] = _BLOCKS
    bands: int = 72


_SIX_24 = (24,) * 6

_VARIANTS = {
    "redimnet2-b0": _Variant(12, (2, 1, 1, 1, 1, 1), (36, 36, 36, 36, 18, 18), 64),
    "redimnet2-b1": _Variant(16, (2, 1, 1, 1, 1, 1), (32, 32, 32, 32, 16, 16)),
    "redimnet2-b2": _Variant(
        20, (2, 1, 1, 1, 1, 1), (40, 30, 30, 20, 20, 10), strides=((1, 1), (2, 1), (1, 2), (3, 1), (1, 2), (2, 1))
    ),
    "redimnet2-b3": _Variant(24, (4, 3, 2, 1, 1, 1), _SIX_24),
    "redimnet2-b4": _Variant(32, (4, 3, 2, 1, 1, 1), _SIX_24),
    "redimnet2-b5": _Variant(48, (4, 3, 2, 1, 1, 1), (48, 48, 48, 48, 32, 32), 256),
    "redimnet2-b6": _Variant(64, (3, 2, 2, 1, 0.75, 0.5), (64, 64, 48, 48, 32, 24), 224, blocks=(3, 4, 5, 5, 4, 3)),
    "redimnet2-tiny": _Variant(4, (2, 1, 0.5), (12, 12, 12), 8, ((1, 1), (2, 2), (2, 1)), (1, 1, 1), bands=24),
}


def _config(variant: _Variant) -> ReDimNet2Config:
    rows = zip(variant.strides, variant.blocks, variant.expansions, variant.reductions, strict=True)
    return ReDimNet2Config(
        front_end=FourierFrontEndConfig(bands=variant.bands, normalise_signal=True),
        channels=variant.channels,
        stages=tuple(
            StageConfig(*strides, blocks, expansion, ((3, 3),), reduction) for strides, blocks, expansion, reduction in rows
        ),
        map_groups=variant.channels,
        head_channels=variant.head_channels,
        head_2d=True,
    )


VARIANTS = {name: _config(variant) for name, variant in _VARIANTS.items()}
"""By name, smallest network last; ``redimnet2-tiny`` has fewer than 100,000 parameters and learns on a CPU."""

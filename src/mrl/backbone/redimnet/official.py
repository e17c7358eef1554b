"""The names of the official state dict of the first generation; see :mod:`mrl.backbone.conversion`."""

from __future__ import annotations

from collections.abc import Iterator

from mrl.backbone.conversion import (
    BATCH_NORM,
    POINT,
    SUM,
    SWAP,
    Entry,
    block_entries,
    context_entries,
    head_entries,
    mel_entries,
    module_entries,
    norm_entries,
    stem_entries,
)
from mrl.backbone.redimnet.config import ReDimNetConfig


def official_entries(config: ReDimNetConfig) -> Iterator[Entry]:
    """Yield every tensor of a network with its official names."""
    yield from mel_entries(config.front_end)
    yield from stem_entries()
    for index in range(len(config.stages)):
        yield from _stage(config, index)
    yield Entry("encoder.final_sum.logits", ("backbone.fin_wght1d.w",), SUM)
    if config.frame_dim is not None:
        yield from module_entries("encoder.frame_projection", "backbone.mfa.0", POINT)
        yield from norm_entries("encoder.frame_norm", "backbone.mfa.1", BATCH_NORM)
    yield from head_entries(config)
    if config.num_classes is not None:
        yield from module_entries("classifier.2", "cls_head.2")


def _stage(config: ReDimNetConfig, index: int) -> Iterator[Entry]:
    stage = config.stages[index]
    ours, official = f"encoder.stages.{index}", f"backbone.stage{index}"
    yield Entry(f"{ours}.weighted_sum.logits", (f"{official}.0.w",), SUM)
    yield from module_entries(f"{ours}.reshape", f"{official}.2", SWAP)
    position = 3  # 1 is the change to 2-D, which has no weights
    for block in range(stage.num_blocks):
        yield from block_entries(
            config.block_2d,
            f"{ours}.blocks.{block}",
            f"{official}.{position}.conv_block",
            grouped=config.group_divisor is not None,
        )
        position += 1
    if stage.expansion != 1:
        yield from module_entries(f"{ours}.squeeze.conv", f"{official}.{position}.0", SWAP)
        yield from norm_entries(f"{ours}.squeeze.norm", f"{official}.{position}.1", BATCH_NORM)
        yield from module_entries(f"{ours}.squeeze.pointwise", f"{official}.{position}.3")
        position += 1
    position += 1  # the change to 1-D
    if stage.context_reduction is not None:
        yield from context_entries(config.block_1d, f"{ours}.context", f"{official}.{position}")

"""The names of the official ReDimNet2 state dict; see :mod:`mrl.backbone.conversion`."""

from __future__ import annotations

from collections.abc import Iterator

from mrl.backbone.conversion import (
    BATCH_NORM,
    NORM,
    POINT,
    SUM,
    SWAP,
    Entry,
    Kind,
    block_entries,
    context_entries,
    head_entries,
    mel_entries,
    module_entries,
    norm_entries,
    stem_entries,
)
from mrl.backbone.redimnet2.config import ReDimNet2Config
from mrl.backbone.redimnet2.frontend import FourierFrontEndConfig

_KERNEL = Kind(lambda t: t.squeeze(1), lambda t: t.unsqueeze(1))
_FILTERS = Kind(lambda t: t.squeeze(-1).transpose(0, 1), lambda t: t.transpose(0, 1).unsqueeze(-1))
_MAP_POINT = Kind(lambda t: t.squeeze(-1).squeeze(-1), lambda t: t.unsqueeze(-1).unsqueeze(-1))


def official_entries(config: ReDimNet2Config) -> Iterator[Entry]:
    """Yield every tensor of a network with its official names."""
    yield from _front_end(config)
    yield from stem_entries()
    if config.map_groups:
        yield from norm_entries("encoder.stem_group_norm", "backbone.stem_gnorm", NORM)
    for index in range(config.num_stages):
        yield from _stage(config, index)
    yield Entry("encoder.final_sum.logits", ("backbone.fin_wght1d.w",), SUM)
    if config.head_channels is not None:
        kind = _MAP_POINT if config.head_2d else POINT
        yield from module_entries("encoder.frame_projection", "backbone.head", kind)
    yield from head_entries(config, "pooling.inner" if config.skipped_frames else "pooling")


def _front_end(config: ReDimNet2Config) -> Iterator[Entry]:
    front = config.front_end
    if not isinstance(front, FourierFrontEndConfig):
        yield from mel_entries(front)
        return
    if front.pre_emphasis:
        yield Entry("front_end.pre_emphasis_filter", ("spec.torchfbank.1.flipped_filter",))
    yield Entry("front_end.real_kernels", ("spec.torchfbank.2.real_kernel_pt",), _KERNEL)
    yield Entry("front_end.imaginary_kernels", ("spec.torchfbank.2.image_kernel_pt",), _KERNEL)
    yield Entry("front_end.filters", ("spec.torchfbank.2.melbanks_pt",), _FILTERS)


def _stage(config: ReDimNet2Config, index: int) -> Iterator[Entry]:
    stage = config.stages[index]
    ours = f"encoder.stages.{index}"
    two_maps = config.two_maps and stage.context_reduction is not None
    official = f"backbone.stage{index}_pre" if two_maps else f"backbone.stage{index}"
    yield Entry(f"{ours}.weighted_sum.logits", (f"{official}.0.w",), SUM)
    position = 2  # 1 is the change to 2-D, which has no weights
    if config.band_embedding:
        yield Entry(f"{ours}.band_embedding", (f"{official}.{position}.freq_embedder.weight",))
        position += 1
    yield from module_entries(f"{ours}.reshape", f"{official}.{position}", SWAP)
    position += 1
    for block in range(stage.num_blocks):
        yield from block_entries(
            config.block_2d,
            f"{ours}.blocks.{block}",
            f"{official}.{position}.conv_block",
            grouped=config.group_divisor is not None,
            num_kernels=len(stage.kernel_sizes),
        )
        position += 1
    if stage.expansion != 1:
        yield from module_entries(f"{ours}.squeeze.conv", f"{official}.{position}.0")
        yield from norm_entries(f"{ours}.squeeze.norm", f"{official}.{position}.1", BATCH_NORM)
        position += 1
    position += 1  # the change to 1-D
    if two_maps:
        yield from context_entries(config.block_1d, f"{ours}.context", f"backbone.stage{index}_1d")
        if config.map_groups:
            yield from norm_entries(f"{ours}.norm_before", f"backbone.stage{index}_up_2d.1", NORM)
            yield from norm_entries(f"{ours}.norm", f"backbone.stage{index}_up_1d.1", NORM)
        return
    if stage.context_reduction is not None:
        yield from context_entries(config.block_1d, f"{ours}.context", f"{official}.{position}")
        position += 1
    position += 1  # repeating frames
    if config.map_groups:
        yield from norm_entries(f"{ours}.norm", f"{official}.{position}", NORM)

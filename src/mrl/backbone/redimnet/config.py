"""What a ReDimNet is built from: the typed form of the ``model_config`` that every released checkpoint carries.

The network is always built from the checkpoint's own configuration, never from a table in code; an unknown key or value is an
error that names it, because a network that is silently built otherwise keeps random weights where it matters.
Source: the official constructor (IDRnD/ReDimNet, MIT) and the paper, https://arxiv.org/abs/2407.18223.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mrl.backbone.frontend_config import FrontEndConfig, read_front_end
from mrl.backbone.layers import check_context
from mrl.backbone.pooling import POOLINGS, check_pooling
from mrl.backbone.reading import MOST_BANDS, ConfigReader, are_stages, is_block_count, is_count
from mrl.bounded import brief
from mrl.errors import ConfigError

BLOCKS_1D = ("conv+att", "att", "conv", "fc")
BLOCKS_2D = ("convnext_like", "convnext_like_relu", "basic_resnet", "basic_resnet_fwse")
HEAD_ACTIVATIONS = (
    None,
    "nn.Identity()",
    "nn.ReLU()",
    "nn.GELU()",
    "nn.Sigmoid()",
    "nn.Tanh()",
    "nn.Softmax(dim=1)",
    "nn.LogSoftmax(dim=1)",
)


@dataclass(frozen=True)
class StageConfig:
    """One stage: split the bands by ``stride``, run ``num_blocks`` 2-D blocks at ``expansion`` x channels, then time context."""

    stride: int
    num_blocks: int
    expansion: int
    kernel_sizes: tuple[tuple[int, int], ...]  # carried by the files; the official network uses 3x3 whatever stands here
    context_reduction: int | None  # the time-context block works on bands*channels // context_reduction; None: no such block


@dataclass(frozen=True)
class ReDimNetConfig:
    """The whole network, from waveform to embedding (and class logits where ``num_classes`` is set)."""

    front_end: FrontEndConfig = field(default_factory=FrontEndConfig)
    channels: int = 16
    block_1d: str = "att"
    block_2d: str = "convnext_like"
    stages: tuple[StageConfig, ...] = ()
    group_divisor: int | None = 4
    frame_dim: int | None = None  # official ``out_channels``: a last 1x1 convolution over frames, or none
    embed_dim: int = 192
    num_classes: int | None = None
    class_dropout: float = 0.0
    stage_dropout: float = 0.0
    head_activation: str | None = None
    pooling: str = "ASTP"
    global_context_attention: bool = False
    embedding_norm: bool = False
    return_all_outputs: bool = False

    @property
    def bands(self) -> int:
        return self.front_end.bands

    @property
    def num_stages(self) -> int:
        return len(self.stages)

    @property
    def volume(self) -> int:
        """Numbers per frame, the same after every stage: bands x channels."""
        return self.bands * self.channels

    @classmethod
    def from_model_config(cls, model_config: Mapping[str, Any]) -> ReDimNetConfig:
        """Read an official ``model_config``.

        Raises:
            ConfigError: an unknown key, or a value that the official network cannot have.
        """
        return _Reader(model_config, "model_config").network()

    def to_model_config(self) -> dict[str, Any]:
        """Return the official ``model_config``, every key spelled out."""
        front = self.front_end
        return {
            "F": front.bands,
            "C": self.channels,
            "block_1d_type": self.block_1d,
            "block_2d_type": self.block_2d,
            "stages_setup": [
                [s.stride, s.num_blocks, s.expansion, [list(k) for k in s.kernel_sizes], s.context_reduction] for s in self.stages
            ],
            "group_divisor": self.group_divisor,
            "out_channels": self.frame_dim,
            "embed_dim": self.embed_dim,
            "num_classes": self.num_classes,
            "class_dropout": self.class_dropout,
            "feat_agg_dropout": self.stage_dropout,
            "head_activation": self.head_activation,
            "hop_length": front.hop_length,
            "pooling_func": self.pooling,
            "feat_type": "pt",
            "global_context_att": self.global_context_attention,
            "emb_bn": self.embedding_norm,
            "spec_params": front.to_spec_params(),
            "return_all_outputs": self.return_all_outputs,
            "tf_optimized_arch": False,
        }

    def replace(self, **changes: Any) -> ReDimNetConfig:
        """Return a copy with other values."""
        return dataclasses.replace(self, **changes)

    def with_embedding(self, embed_dim: int, *, num_stages: int | None = None) -> ReDimNetConfig:
        """Return the configuration of the first stages (None: all) with another plain affine embedding and no classes."""
        return self.replace(stages=self.stages[:num_stages], embed_dim=embed_dim, embedding_norm=False, num_classes=None)


_DEFAULT_STAGES = tuple(
    (stride, blocks, 1, ((3, 3),), reduction)
    for stride, blocks, reduction in ((1, 2, 12), (2, 2, 12), (1, 3, 12), (2, 4, 8), (1, 4, 8), (2, 4, 4))
)
_DEFAULT_SPEC_PARAMS = {"do_spec_aug": False, "freq_mask_width": (0, 6), "time_mask_width": (0, 8)}


class _Reader(ConfigReader):
    """Reads the arguments of the official constructor."""

    def network(self) -> ReDimNetConfig:
        bands = self.take("F", 72, lambda v: is_count(v) and v <= MOST_BANDS, f"a whole number from 1 to {MOST_BANDS}")
        channels = self.positive("C", 16)
        hop_length = self.positive("hop_length", 160)
        # The TensorFlow-like front ends of the official code are other filters; no released checkpoint uses them.
        self.choice("feat_type", "pt", ("pt", "pt_mel"))
        # The official constructor offers this, but the class that it names does not exist.
        self.choice("tf_optimized_arch", False, (False,))
        spec_params = self.take("spec_params", _DEFAULT_SPEC_PARAMS, lambda v: isinstance(v, Mapping), "a mapping")
        config = ReDimNetConfig(
            front_end=read_front_end(spec_params, f"{self.where}: spec_params", bands, hop_length),
            channels=channels,
            block_1d=self.choice("block_1d_type", "att", BLOCKS_1D),
            block_2d=self.choice("block_2d_type", "convnext_like", BLOCKS_2D),
            stages=self._stages(),
            group_divisor=self.positive("group_divisor", 4, none_allowed=True),
            frame_dim=self.positive("out_channels", None, none_allowed=True),
            embed_dim=self.positive("embed_dim", 192),
            num_classes=self.positive("num_classes", None, none_allowed=True),
            class_dropout=self.number("class_dropout", 0.0, 0.0, 1.0),
            stage_dropout=self.number("feat_agg_dropout", 0.0, 0.0, 1.0),
            head_activation=self.choice("head_activation", None, HEAD_ACTIVATIONS),
            pooling=self.choice("pooling_func", "ASTP", POOLINGS),
            global_context_attention=self.boolean("global_context_att", False),
            embedding_norm=self.boolean("emb_bn", False),
            return_all_outputs=self.boolean("return_all_outputs", False),
        )
        self.finish()
        self._check_divisions(config)
        return config

    def _stages(self) -> tuple[StageConfig, ...]:
        rows = self.take("stages_setup", _DEFAULT_STAGES, are_stages, "a list of stages")
        stages = []
        for number, row in enumerate(rows):
            if not isinstance(row, (list, tuple)) or len(row) != 5:
                raise ConfigError(
                    f"{self.where}: stages_setup[{number}]={brief(row)} is not supported; expected "
                    "[frequency stride, blocks, conv_exp, kernel sizes, time-context reduction or None]"
                )
            stride, num_blocks, expansion, kernel_sizes, reduction = row
            good = (
                type(stride) is int
                and stride in (1, 2, 3)
                and is_block_count(num_blocks)
                and is_count(expansion)
                and isinstance(kernel_sizes, (list, tuple))
                and all(isinstance(k, (list, tuple)) and len(k) == 2 and all(map(is_count, k)) for k in kernel_sizes)
                and (reduction is None or is_count(reduction))
            )
            if not good:
                raise ConfigError(
                    f"{self.where}: stages_setup[{number}]={brief(row)} is not supported; expected a stride of 1, 2 or 3, "
                    "positive whole numbers of blocks and conv_exp, pairs of kernel sizes, and a positive reduction or None"
                )
            stages.append(
                StageConfig(
                    int(stride), int(num_blocks), int(expansion), tuple((int(a), int(b)) for a, b in kernel_sizes), reduction
                )
            )
        return tuple(stages)

    def _check_divisions(self, config: ReDimNetConfig) -> None:
        bands, channels = config.bands, config.channels
        for number, stage in enumerate(config.stages):
            where = f"{self.where}: stages_setup[{number}]"
            if bands % stage.stride:
                raise ConfigError(f"{where}: {bands} bands cannot be split by a stride of {stage.stride}")
            bands //= stage.stride
            channels *= stage.stride
            widths = {channels * stage.expansion} | ({channels} if stage.expansion != 1 else set())
            for width in widths:
                self._check_groups(where, width, channels * stage.expansion, config.group_divisor)
            check_context(config.block_1d, config.volume, stage.context_reduction, where)
        check_pooling(config.pooling, config.frame_dim or config.volume, self.where)

    def _check_groups(self, where: str, width: int, inputs: int, group_divisor: int | None) -> None:
        groups = 1 if group_divisor is None else width // group_divisor
        if groups < 1 or width % groups or inputs % groups:
            raise ConfigError(
                f"{where}: group_divisor={group_divisor} does not divide a convolution of {inputs} to {width} channels"
            )

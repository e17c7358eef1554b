"""What a ReDimNet is built from: the typed form of the ``model_config`` that every released checkpoint carries.

The network is always built from the checkpoint's own configuration, never from a table in code; an unknown key or value is an
error that names it, because a network that is silently built otherwise keeps random weights where it matters.
Source: the official constructor (IDRnD/ReDimNet, MIT) and the paper, https://arxiv.org/abs/2407.18223.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mrl.backbone.config import BackboneConfig, NetworkReader
from mrl.backbone.frontend_config import read_front_end
from mrl.backbone.reading import is_block_count, is_count, is_pair
from mrl.errors import ConfigError

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
    kernel_sizes: tuple[tuple[int, int], ...]  # carried by the files; the official network uses 3x3 in any case
    context_reduction: int | None  # the time-context block works on bands*channels // context_reduction; None: no such block

    @property
    def size(self) -> tuple[object, ...]:
        return self.stride, self.num_blocks, self.expansion, self.context_reduction


@dataclass(frozen=True)
class ReDimNetConfig(BackboneConfig):
    """The whole network, from waveform to embedding (and class logits where ``num_classes`` is set)."""

    stages: tuple[StageConfig, ...] = ()
    frame_dim: int | None = None  # official ``out_channels``: a last 1x1 convolution over frames, or none
    num_classes: int | None = None
    class_dropout: float = 0.0
    stage_dropout: float = 0.0
    head_activation: str | None = None

    @classmethod
    def from_model_config(cls, model_config: Mapping[str, Any]) -> ReDimNetConfig:
        return _Reader(model_config, "model_config").network()

    def to_model_config(self) -> dict[str, Any]:
        return super().to_model_config() | {
            "stages_setup": [
                [s.stride, s.num_blocks, s.expansion, [list(k) for k in s.kernel_sizes], s.context_reduction] for s in self.stages
            ],
            "out_channels": self.frame_dim,
            "num_classes": self.num_classes,
            "class_dropout": self.class_dropout,
            "feat_agg_dropout": self.stage_dropout,
            "head_activation": self.head_activation,
            "feat_type": "pt",
            "tf_optimized_arch": False,
        }

    def with_embedding(self, embed_dim: int, *, num_stages: int | None = None) -> ReDimNetConfig:
        return self.replace(stages=self.stages[:num_stages], embed_dim=embed_dim, embedding_norm=False, num_classes=None)


_DEFAULT_STAGES = tuple(
    (stride, blocks, 1, ((3, 3),), reduction)
    for stride, blocks, reduction in ((1, 2, 12), (2, 2, 12), (1, 3, 12), (2, 4, 8), (1, 4, 8), (2, 4, 4))
)
_DEFAULT_SPEC_PARAMS = {"do_spec_aug": False, "freq_mask_width": (0, 6), "time_mask_width": (0, 8)}


class _Reader(NetworkReader):
    """Reads the arguments of the official constructor."""

    def network(self) -> ReDimNetConfig:
        # The TensorFlow-like front ends of the official code are other filters; no released checkpoint uses them.
        self.choice("feat_type", "pt", ("pt", "pt_mel"))
        # The official constructor offers this, but the class that it names does not exist.
        self.choice("tf_optimized_arch", False, (False,))
        config = ReDimNetConfig(
            front_end=read_front_end(*self.features(_DEFAULT_SPEC_PARAMS)),
            stages=tuple(self._stages()),
            frame_dim=self.positive("out_channels", None, none_allowed=True),
            num_classes=self.positive("num_classes", None, none_allowed=True),
            class_dropout=self.number("class_dropout", 0.0, 0.0, 1.0),
            stage_dropout=self.number("feat_agg_dropout", 0.0, 0.0, 1.0),
            head_activation=self.choice("head_activation", None, HEAD_ACTIVATIONS),
            **self.common(ReDimNetConfig()),
        )
        self.finish()
        strides = [stage.stride for stage in config.stages]
        self.check_divisions(config, config.frame_dim or config.volume, strides, _convolutions)
        return config

    def _stages(self) -> Iterator[StageConfig]:
        expected = "[frequency stride, blocks, conv_exp, kernel sizes, time-context reduction or None]"
        for refused, (stride, num_blocks, expansion, kernel_sizes, reduction) in self.stage_rows(_DEFAULT_STAGES, expected):
            good = (
                type(stride) is int
                and stride in (1, 2, 3)
                and is_block_count(num_blocks)
                and is_count(expansion)
                and isinstance(kernel_sizes, (list, tuple))
                and all(map(is_pair, kernel_sizes))
                and (reduction is None or is_count(reduction))
            )
            if not good:
                raise ConfigError(
                    f"{refused} a stride of 1, 2 or 3, positive whole numbers of blocks and conv_exp, pairs of kernel sizes, and "
                    "a positive reduction or None"
                )
            yield StageConfig(stride, num_blocks, expansion, tuple((a, b) for a, b in kernel_sizes), reduction)


def _convolutions(stage: StageConfig, channels: int) -> Iterator[tuple[int, int]]:
    width = channels * stage.expansion
    yield width, width
    if stage.expansion != 1:
        yield width, channels

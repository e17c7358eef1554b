"""What a ReDimNet2 is built from: the typed form of the ``model_config`` that every released checkpoint carries.

As in the first generation the network is built from the file's own configuration alone. What the official code knows, no release
uses and this package does not have is refused by name.
Source: the official constructor (PalabraAI/redimnet2, MIT) and the paper, https://arxiv.org/abs/2603.11841.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mrl.backbone.config import BackboneConfig, NetworkReader
from mrl.backbone.frontend_config import FrontEndConfig, read_front_end
from mrl.backbone.reading import is_block_count, is_count, is_pair
from mrl.backbone.redimnet2.frontend import FourierFrontEndConfig, read_fourier_front_end
from mrl.errors import ConfigError

FRONT_ENDS = ("pt", "pt_mel", "tf", "tf_mel")
CUT_KEY = "mrl_depth"
"""Key of our own in ``model_config``: how many stages are left of a network that was cut. No official file has it."""
OWN_KEYS = frozenset(
    {"causal", "spec_in_channels", "compress_tconvs", "fm_weigthing_type", "return_2d_output", "use_freq_pos_enc"}
    | {"dual_agg", "agg_gnorm", "att_dos", "pad_right_samples", "before_pool_offset", CUT_KEY}
)
"""Keys of ``model_config`` by which a file is known to be of this generation."""
MEL_SIGNAL_EPSILON = 1e-10  # of the first generation's front end as this one has it


@dataclass(frozen=True)
class StageConfig:
    """One stage: reshape by the strides, run ``num_blocks`` 2-D blocks at ``expansion`` x channels, then time context."""

    band_stride: int
    time_stride: int  # multiplied by those of all stages before: every stage strides from full time resolution
    num_blocks: int
    expansion: float
    kernel_sizes: tuple[tuple[int, int], ...]  # (bands, frames); only the convnext blocks look at them
    context_reduction: int | None  # the time-context block works on bands*channels // context_reduction; None: no such block

    @property
    def size(self) -> tuple[object, ...]:
        return self.band_stride, self.time_stride, self.num_blocks, self.expansion


@dataclass(frozen=True)
class ReDimNet2Config(BackboneConfig):
    """The whole network, from waveform to embedding."""

    front_end: FrontEndConfig = field(default_factory=FourierFrontEndConfig)
    channels: int = 24
    block_1d: str = "conv+att"
    block_2d: str = "basic_resnet"
    stages: tuple[StageConfig, ...] = ()
    group_divisor: int | None = 1
    global_context_attention: bool = True
    grouped_reshape: bool = True  # official ``compress_tconvs``
    map_groups: int = 0  # official ``agg_gnorm``: groups of the norm of every map that is kept; 0: no such norm
    two_maps: bool = False  # official ``dual_agg``: a stage also keeps what it has before its time context
    band_embedding: bool = False  # official ``use_freq_pos_enc``
    head_channels: int | None = None  # official ``out_channels``: of the last 1x1 convolution, or none
    head_2d: bool = False  # official ``return_2d_output``: that convolution is over maps, and frames are flattened by channel
    depth: int | None = None  # of a network that was cut: stages that are left, with the head and frames of all
    skipped_frames: int = 0  # official ``before_pool_offset``
    padded_samples: int = 0  # official ``pad_right_samples``

    @property
    def num_stages(self) -> int:
        """How many stages the network has; fewer than :attr:`stages` lists where it was cut."""
        return len(self.stages) if self.depth is None else self.depth

    @property
    def time_strides(self) -> tuple[int, ...]:
        """For every stage, how many frames of the features one of its frames stands for."""
        strides, total = [], 1
        for stage in self.stages:
            total *= stage.time_stride
            strides.append(total)
        return tuple(strides)

    @property
    def time_stride(self) -> int:
        """That of the last stage. Frames beyond a multiple of it are dropped."""
        return self.time_strides[-1] if self.stages else 1

    @property
    def last_bands(self) -> int:
        """Bands after the last stage."""
        return self.bands // math.prod(stage.band_stride for stage in self.stages)

    @property
    def frame_dim(self) -> int:
        """Features per frame that are pooled."""
        if self.head_channels is None:
            return self.volume
        return self.head_channels * (self.last_bands if self.head_2d else 1)

    @classmethod
    def from_model_config(cls, model_config: Mapping[str, Any]) -> ReDimNet2Config:
        return _Reader(model_config, "model_config").network()

    def to_model_config(self) -> dict[str, Any]:
        rows = [
            [[s.band_stride, s.time_stride], s.num_blocks, s.expansion, [list(k) for k in s.kernel_sizes], s.context_reduction]
            for s in self.stages
        ]
        return super().to_model_config() | {
            "causal": "none",
            "spec_in_channels": 1,
            "compress_tconvs": self.grouped_reshape,
            "fm_weigthing_type": "NC",
            "out_channels": self.head_channels,
            "return_2d_output": self.head_2d,
            "use_freq_pos_enc": self.band_embedding,
            "dual_agg": self.two_maps,
            "agg_gnorm": self.map_groups or False,
            "att_dos": None,
            "pad_right_samples": self.padded_samples or None,
            "before_pool_offset": self.skipped_frames or None,
            "feat_type": "tf" if isinstance(self.front_end, FourierFrontEndConfig) else "pt",
            "stages_setup": rows,
            **({} if self.depth is None else {CUT_KEY: self.depth}),
        }

    def with_embedding(self, embed_dim: int, *, num_stages: int | None = None) -> ReDimNet2Config:
        """Fewer stages keep the head and the frames of the whole network, so that they give what it has after those stages."""
        depth = self.num_stages if num_stages is None else num_stages
        return self.replace(embed_dim=embed_dim, embedding_norm=False, depth=None if depth == len(self.stages) else depth)


_DEFAULT_STAGES = tuple(
    (strides, blocks, expansion, ((3, 3),), 24)
    for strides, blocks, expansion in (
        ((1, 1), 2, 4),
        ((2, 1), 3, 3),
        ((1, 2), 4, 2),
        ((2, 1), 5, 1),
        ((1, 2), 4, 1),
        ((2, 1), 3, 1),
    )
)
_DEFAULT_SPEC_PARAMS = {"do_spec_aug": False, "do_preemph": True, "norm_signal": True}
_NOT_BUILT = {
    "feat_type": {"tf_spec": "linear spectrograms", "pt_stft": "linear spectrograms"},
    "causal": {"full": "causal networks", "only_1d": "causal networks"},
}


class _Reader(NetworkReader):
    """Reads the arguments of the official constructor."""

    def network(self) -> ReDimNet2Config:
        feat_type = self.choice("feat_type", "pt", FRONT_ENDS)
        # The official default, False, is refused by the official network itself.
        self.choice("causal", "none", ("none", False))
        self.choice("spec_in_channels", 1, (1,))
        self.choice("fm_weigthing_type", "NC", ("NC",))
        self._attention_options()
        for ignored in ("num_classes", "feat_agg_dropout", "head_activation"):  # by the official network, too
            self.take(ignored, None, lambda _: True, "anything")
        common = self.common(ReDimNet2Config())
        config = ReDimNet2Config(
            front_end=_front_end(feat_type, *self.features(_DEFAULT_SPEC_PARAMS)),
            stages=tuple(self._stages()),
            grouped_reshape=self.boolean("compress_tconvs", True),
            map_groups=self._map_groups(common["channels"]),
            two_maps=self.boolean("dual_agg", False),
            band_embedding=self.boolean("use_freq_pos_enc", False),
            head_channels=self.positive("out_channels", None, none_allowed=True),
            head_2d=self.boolean("return_2d_output", False),
            depth=self.positive(CUT_KEY, None, none_allowed=True),
            skipped_frames=self._count_or_none("before_pool_offset"),
            padded_samples=self._count_or_none("pad_right_samples"),
            **common,
        )
        self.finish()
        self._check(config)
        return config

    def reason(self, key: str, value: Any) -> str:
        """Name what the official code has beside the values that can be built here."""
        what = _NOT_BUILT.get(key, {}).get(value) if isinstance(value, str) else None
        if what is None and isinstance(value, str) and key.startswith("block_"):
            what = _kind_of_block(value)
        return f" ({what} are not built here, and no released checkpoint uses them)" if what else ""

    def _attention_options(self) -> None:
        options = self.take("att_dos", None, lambda v: v is None or isinstance(v, Mapping), "a mapping or None")
        for key, value in (options or {}).items():
            if value not in (0, None):  # 0 and False alike
                raise ConfigError(
                    f"{self.where}: att_dos: {key}={value!r} is not supported (attention with dropout, normalised queries or "
                    "rotary positions is not built here, and no released checkpoint uses it); expected none of these options"
                )

    def _count_or_none(self, key: str) -> int:
        return int(self.take(key, None, lambda v: v is None or is_count(v, zero=True), "a whole number or None") or 0)

    def _map_groups(self, channels: int) -> int:
        expected = "true (as many groups as channels), a number of groups or false"
        value = self.take("agg_gnorm", False, lambda v: v is None or isinstance(v, int), expected)
        return channels if value is True else max(0, int(value or 0))

    def _stages(self) -> Iterator[StageConfig]:
        expected = (
            "[(band stride, time stride), blocks, conv_exp, kernel sizes, time-context reduction or None] with positive numbers, "
            "all whole but conv_exp"
        )
        for refused, (strides, num_blocks, expansion, kernel_sizes, reduction) in self.stage_rows(_DEFAULT_STAGES, expected):
            good = (
                is_pair(strides)
                and is_block_count(num_blocks)
                and isinstance(expansion, (int, float))
                and not isinstance(expansion, bool)
                and 0 < expansion < math.inf
                and isinstance(kernel_sizes, (list, tuple))
                and len(kernel_sizes) > 0
                and all(is_pair(kernel) and all(size % 2 for size in kernel) for kernel in kernel_sizes)
                and (reduction is None or is_count(reduction))
            )
            if not good:
                raise ConfigError(f"{refused} {expected}, and odd kernel sizes")
            yield StageConfig(strides[0], strides[1], num_blocks, expansion, tuple((a, b) for a, b in kernel_sizes), reduction)

    def _check(self, config: ReDimNet2Config) -> None:
        if config.depth is not None and config.depth >= len(config.stages):
            raise ConfigError(f"{self.where}: {CUT_KEY}={config.depth} does not cut {len(config.stages)} stages")
        if config.map_groups and config.volume % config.map_groups:
            raise ConfigError(
                f"{self.where}: agg_gnorm={config.map_groups} groups cannot share {config.volume} features; "
                "expected a number that divides F*C"
            )
        self.check_divisions(config, config.frame_dim, [stage.band_stride for stage in config.stages], _convolutions)


def _convolutions(stage: StageConfig, channels: int) -> Iterator[tuple[int, int]]:
    width = int(channels * stage.expansion)
    yield width, width


def _front_end(feat_type: str, spec_params: Mapping[str, Any], where: str, bands: int, hop_length: int) -> FrontEndConfig:
    if feat_type.startswith("tf"):
        return read_fourier_front_end(spec_params, where, bands, hop_length)
    return dataclasses.replace(read_front_end(spec_params, where, bands, hop_length), signal_epsilon=MEL_SIGNAL_EPSILON)


def _kind_of_block(name: str) -> str | None:
    """Return what the official code means by the name of a block that is not built here; None for an unknown name."""
    parts = set(name.split("_")) | set(name.replace("+", "_").split("_"))
    for mark, what in (
        ("causal", "causal networks"),
        ("sdwm", "depthwise mixers"),
        ("v2", "blocks with kernels that shrink with the time stride"),
        ("stable", "blocks with stable attention"),
        ("ws", "blocks with weight standardisation"),
        ("large", "blocks with dilated kernels"),
        ("pre", "blocks with their norm in other places"),
        ("post", "blocks with their norm in other places"),
        ("ln", "blocks with LayerNorm"),
    ):
        if mark in parts:
            return what
    if name.endswith("rope"):
        return "blocks with rotary positions"
    return "double convolution blocks" if name == "convx2" else None

"""What the configurations of all families have in common, and how they are read from an official ``model_config``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mrl.backbone.frontend_config import FrontEndConfig
from mrl.backbone.layers import check_context
from mrl.backbone.pooling import POOLINGS, check_pooling
from mrl.backbone.reading import MOST_BANDS, ConfigReader, are_stages, is_count
from mrl.bounded import brief
from mrl.errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import Self

BLOCKS_1D = ("conv+att", "att", "conv", "fc")
BLOCKS_2D = ("convnext_like", "convnext_like_relu", "basic_resnet", "basic_resnet_fwse")


@dataclass(frozen=True)
class BackboneConfig:
    """The whole network, from waveform to embedding. A family adds its own fields and has its own defaults."""

    front_end: FrontEndConfig = field(default_factory=FrontEndConfig)
    channels: int = 16
    block_1d: str = "att"
    block_2d: str = "convnext_like"
    stages: tuple[Any, ...] = ()
    group_divisor: int | None = 4
    embed_dim: int = 192
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
        """Values per frame at full time resolution, the same after every stage: bands x channels."""
        return self.bands * self.channels

    @property
    def size(self) -> tuple[object, ...]:
        """Equal for networks of the same published size, whatever their front end, norms, head and embedding."""
        rows = tuple(stage.size for stage in self.stages)
        return rows, self.bands, self.channels, self.block_1d, self.block_2d, self.group_divisor

    @classmethod
    def from_model_config(cls, model_config: Mapping[str, Any]) -> Self:
        """Read an official ``model_config``.

        Raises:
            ConfigError: an unknown key, or a value that the official network cannot have or that is not built here.
        """
        raise NotImplementedError

    def to_model_config(self) -> dict[str, Any]:
        """Return the official ``model_config``, every key spelled out."""
        return {
            "F": self.bands,
            "C": self.channels,
            "block_1d_type": self.block_1d,
            "block_2d_type": self.block_2d,
            "group_divisor": self.group_divisor,
            "embed_dim": self.embed_dim,
            "hop_length": self.front_end.hop_length,
            "pooling_func": self.pooling,
            "global_context_att": self.global_context_attention,
            "emb_bn": self.embedding_norm,
            "spec_params": self.front_end.to_spec_params(),
            "return_all_outputs": self.return_all_outputs,
        }

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other values."""
        return dataclasses.replace(self, **changes)

    def with_embedding(self, embed_dim: int, *, num_stages: int | None = None) -> Self:
        """Return the configuration of the first stages (None: all) with another plain affine embedding and no classes."""
        raise NotImplementedError


class NetworkReader(ConfigReader):
    """Reads the arguments of the official constructors that all families have."""

    def features(self, default: Mapping[str, Any]) -> tuple[Mapping[str, Any], str, int, int]:
        """Return ``spec_params``, their name in messages, bands and hop length."""
        bands = self.take("F", 72, lambda v: is_count(v) and v <= MOST_BANDS, f"a whole number from 1 to {MOST_BANDS}")
        hop_length = self.positive("hop_length", 160)
        spec_params = self.take("spec_params", default, lambda v: isinstance(v, Mapping), "a mapping")
        return spec_params, f"{self.where}: spec_params", bands, hop_length

    def common(self, defaults: BackboneConfig) -> dict[str, Any]:
        """Return the fields of :class:`BackboneConfig` but front end and stages; ``defaults`` are the family's."""
        return {
            "channels": self.positive("C", defaults.channels),
            "block_1d": self.choice("block_1d_type", defaults.block_1d, BLOCKS_1D),
            "block_2d": self.choice("block_2d_type", defaults.block_2d, BLOCKS_2D),
            "group_divisor": self.positive("group_divisor", defaults.group_divisor, none_allowed=True),
            "embed_dim": self.positive("embed_dim", defaults.embed_dim),
            "pooling": self.choice("pooling_func", defaults.pooling, POOLINGS),
            "global_context_attention": self.boolean("global_context_att", defaults.global_context_attention),
            "embedding_norm": self.boolean("emb_bn", defaults.embedding_norm),
            "return_all_outputs": self.boolean("return_all_outputs", defaults.return_all_outputs),
        }

    def stage_rows(self, default: Sequence[Any], expected: str) -> Iterator[tuple[str, Sequence[Any]]]:
        """Yield the five values of every stage, each after the beginning of a message that refuses it."""
        for number, row in enumerate(self.take("stages_setup", default, are_stages, "a list of stages")):
            refused = f"{self.where}: stages_setup[{number}]={brief(row)} is not supported; expected"
            if not isinstance(row, (list, tuple)) or len(row) != 5:
                raise ConfigError(f"{refused} {expected}")
            yield refused, row

    def check_divisions(
        self,
        config: BackboneConfig,
        frame_dim: int,
        strides: Iterable[int],
        convolutions: Callable[[Any, int], Iterable[tuple[int, int]]],
    ) -> None:
        """Make sure that bands, channels and features can be shared as every part of the network shares them.

        Args:
            config: what was read.
            frame_dim: features per frame that are pooled.
            strides: over bands, of every stage.
            convolutions: inputs and outputs of a stage's grouped convolutions, by the stage and its channels.
        """
        bands, channels = config.bands, config.channels
        for number, (stage, stride) in enumerate(zip(config.stages, strides, strict=True)):
            where = f"{self.where}: stages_setup[{number}]"
            if bands % stride:
                raise ConfigError(f"{where}: {bands} bands cannot be split by a stride of {stride}")
            bands //= stride
            channels *= stride
            for inputs, width in convolutions(stage, channels):
                groups = 1 if config.group_divisor is None else width // config.group_divisor
                if groups < 1 or width % groups or inputs % groups:
                    raise ConfigError(
                        f"{where}: group_divisor={config.group_divisor} does not divide a convolution of {inputs} to {width} "
                        f"channels (conv_exp={stage.expansion})"
                    )
            check_context(config.block_1d, config.volume, stage.context_reduction, where)
        check_pooling(config.pooling, frame_dim, self.where)

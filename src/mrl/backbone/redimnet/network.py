"""The exact ReDimNet: waveform in, raw speaker embedding out, numbers as the official network gives them.

Paper: Yakovlev et al., "Reshape Dimensions Network for Speaker Recognition", Interspeech 2024, https://arxiv.org/abs/2407.18223.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from mrl.backbone.base import Backbone
from mrl.backbone.conversion import Entry
from mrl.backbone.encoder import Encoder
from mrl.backbone.frontend import LogMelFrontEnd
from mrl.backbone.pooling import build_pooling
from mrl.backbone.redimnet.config import ReDimNetConfig
from mrl.backbone.redimnet.encoder import FrameEncoder
from mrl.backbone.redimnet.inference import InferenceEncoder
from mrl.backbone.redimnet.official import official_entries
from mrl.backbone.redimnet.variants import VARIANTS, scratch_config, size_name


class ReDimNet(Backbone):
    """The first generation.

    Build one from a released file with :func:`mrl.load_pretrained_redimnet`, from an official pair of configuration and weights
    with :meth:`from_official`, or untrained from a :class:`ReDimNetConfig`.
    """

    family: ClassVar[str] = "redimnet"
    config: ReDimNetConfig

    def __init__(self, config: ReDimNetConfig) -> None:
        encoder = FrameEncoder(config)
        pooling = build_pooling(config.pooling, encoder.frame_dim, global_context=config.global_context_attention)
        super().__init__(config, LogMelFrontEnd(config.front_end), encoder, pooling, embedding_norm=config.embedding_norm)
        self.classifier = _classifier(config)

    def folded_encoder(self, dtype: torch.dtype) -> Encoder:
        assert isinstance(self.encoder, FrameEncoder)
        return InferenceEncoder(self.encoder).in_dtype(dtype)

    @classmethod
    def claims(cls, model_config: Mapping[str, Any]) -> bool:
        """Whatever no other family claims is of the first generation."""
        return True

    @classmethod
    def from_model_config(cls, model_config: Mapping[str, Any]) -> ReDimNet:
        return cls(ReDimNetConfig.from_model_config(model_config))

    @classmethod
    def scratch_names(cls) -> tuple[str, ...]:
        return tuple(VARIANTS)

    def size_name(self) -> str | None:
        return size_name(self.config)

    @classmethod
    def scratch_config(cls, name: str) -> ReDimNetConfig:
        return scratch_config(name)

    def official_entries(self) -> list[Entry]:
        return official_entries(self.config)


def _classifier(config: ReDimNetConfig) -> nn.Sequential | None:
    if config.num_classes is None:
        return None
    activations: dict[str | None, nn.Module] = {
        None: nn.Identity(),
        "nn.Identity()": nn.Identity(),
        "nn.ReLU()": nn.ReLU(),
        "nn.GELU()": nn.GELU(),
        "nn.Sigmoid()": nn.Sigmoid(),
        "nn.Tanh()": nn.Tanh(),
        "nn.Softmax(dim=1)": nn.Softmax(dim=1),
        "nn.LogSoftmax(dim=1)": nn.LogSoftmax(dim=1),
    }
    layers = [nn.ReLU(), nn.Dropout(config.class_dropout), nn.Linear(config.embed_dim, config.num_classes)]
    return nn.Sequential(*layers, activations[config.head_activation])

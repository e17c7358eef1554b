"""The exact ReDimNet: waveform in, raw speaker embedding out, the same values as from the official network.

Paper: Yakovlev et al., "Reshape Dimensions Network for Speaker Recognition", Interspeech 2024, https://arxiv.org/abs/2407.18223.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mrl.backbone.base import Backbone
from mrl.backbone.conversion import Entry
from mrl.backbone.encoder import Encoder
from mrl.backbone.frontend import FrontEnd, LogMelFrontEnd
from mrl.backbone.pooling import build_pooling
from mrl.backbone.redimnet.config import ReDimNetConfig
from mrl.backbone.redimnet.encoder import FrameEncoder
from mrl.backbone.redimnet.inference import InferenceFrameEncoder
from mrl.backbone.redimnet.official import official_entries
from mrl.backbone.redimnet.variants import VARIANTS


class ReDimNet(Backbone):
    """The first generation.

    Build one from a released file with :func:`mrl.load_pretrained_redimnet`, from an official pair of configuration and weights
    with :meth:`from_official`, or untrained from a :class:`ReDimNetConfig`.
    """

    family = "redimnet"
    config_class = ReDimNetConfig
    variants = VARIANTS
    config: ReDimNetConfig

    def __init__(self, config: ReDimNetConfig) -> None:
        super().__init__(config)
        self.classifier = _classifier(config)

    def parts(self) -> tuple[FrontEnd, Encoder, nn.Module]:
        config = self.config
        encoder = FrameEncoder(config)
        pooling = build_pooling(config.pooling, encoder.frame_dim, global_context=config.global_context_attention)
        return LogMelFrontEnd(config.front_end), encoder, pooling

    def folded_encoder(self, dtype: torch.dtype) -> Encoder:
        assert isinstance(self.encoder, FrameEncoder)
        return InferenceFrameEncoder(self.encoder).in_dtype(dtype)

    @classmethod
    def claims(cls, model_config: Mapping[str, Any]) -> bool:
        """Whatever no other family claims is of the first generation."""
        return True

    def official_entries(self) -> list[Entry]:
        return list(official_entries(self.config))


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

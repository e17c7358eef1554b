"""The exact ReDimNet: waveform in, raw speaker embedding out, numbers as the official network gives them.

Paper: Yakovlev et al., "Reshape Dimensions Network for Speaker Recognition", Interspeech 2024, https://arxiv.org/abs/2407.18223.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mrl.backbone.base import Backbone
from mrl.backbone.config import ReDimNetConfig
from mrl.backbone.conversion import load_official, to_official_state_dict
from mrl.backbone.encoder import FrameEncoder
from mrl.backbone.frontend import LogMelFrontEnd
from mrl.backbone.inference_copy import inference_copy
from mrl.backbone.official import official_entries
from mrl.backbone.pooling import build_pooling


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

    def optimize_for_inference(self, *, dtype: torch.dtype = torch.float32, compile: bool = False, pack: bool = True) -> ReDimNet:
        """Return a faster copy for inference with the same results; this network stays as it is.

        BatchNorms are folded into the convolutions and the head (exactly, at the edges too), the weights of the aggregation are
        computed once, bias, activation and residual become part of the convolution before them, and on a CPU the weights lie in
        the layout in which oneDNN computes. The copy cannot be trained, saved or converted; it may be moved and pickled.

        Args:
            dtype: float32, or bfloat16 for encoder and pooling layers where the processor has it (front end, statistics and
                head stay in float32).
            compile: compile encoder and pooling with ``torch.compile`` (needs a C++ compiler). The first call takes minutes, and
                so do the first few new shapes; call under ``torch.inference_mode()``.
            pack: use oneDNN's own operations and layouts; False for plain operations that can be traced and exported.

        Raises:
            InputError: another ``dtype``, or bfloat16 on a processor without it.
            TrainingError: this network is such a copy already.
        """
        return inference_copy(self, dtype=dtype, compile=compile, pack=pack)

    @classmethod
    def from_official(cls, model_config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> ReDimNet:
        """Build the network that an official file describes, in eval mode.

        Raises:
            ConfigError: ``model_config`` has an unknown key or an unsupported value.
            CheckpointError: the weights lack an entry, have one too many, or one of another shape.
        """
        model = cls(ReDimNetConfig.from_model_config(model_config))
        load_official(model, official_entries(model.config), state_dict)
        model.eval()
        return model

    def to_official(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return ``(model_config, state_dict)`` with the official names and shapes; the inverse of :meth:`from_official`.

        Raises:
            TrainingError: this is an inference copy, whose weights are folded.
        """
        self.refuse_copy("converted")
        return self.config.to_model_config(), to_official_state_dict(self, official_entries(self.config))


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

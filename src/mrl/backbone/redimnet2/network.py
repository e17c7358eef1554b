"""The exact ReDimNet2: waveform in, raw speaker embedding out, the same values as from the official network.

Paper: Yakovlev and Okhotnikov, "ReDimNet2: Scaling Speaker Verification via Time-Pooled Dimension Reshaping", Interspeech 2026,
https://arxiv.org/abs/2603.11841.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mrl.backbone.base import Backbone
from mrl.backbone.conversion import Entry
from mrl.backbone.encoder import Encoder
from mrl.backbone.frontend import FrontEnd, LogMelFrontEnd
from mrl.backbone.pooling import LaterFrames, build_pooling
from mrl.backbone.redimnet2.config import OWN_KEYS, ReDimNet2Config
from mrl.backbone.redimnet2.encoder import FrameEncoder
from mrl.backbone.redimnet2.frontend import FourierFrontEnd, FourierFrontEndConfig
from mrl.backbone.redimnet2.inference import InferenceFrameEncoder, folded_front_end
from mrl.backbone.redimnet2.official import official_entries
from mrl.backbone.redimnet2.variants import VARIANTS
from mrl.errors import TrainingError


class ReDimNet2(Backbone):
    """Waveform ``(batch, samples)`` -> front end -> encoder -> pooled statistics -> raw embedding ``(batch, embed_dim)``.

    The encoder takes a multiple of its time stride (4 in the released networks): trailing frames are dropped, in a padded batch
    for every item by its own length.
    """

    family = "redimnet2"
    config_class = ReDimNet2Config
    variants = VARIANTS
    config: ReDimNet2Config

    def __init__(self, config: ReDimNet2Config) -> None:
        super().__init__(config)

    def parts(self) -> tuple[FrontEnd, Encoder, nn.Module]:
        config, front = self.config, self.config.front_end
        front_end: FrontEnd = FourierFrontEnd(front) if isinstance(front, FourierFrontEndConfig) else LogMelFrontEnd(front)
        pooling: nn.Module = build_pooling(config.pooling, config.frame_dim, global_context=config.global_context_attention)
        if config.skipped_frames:
            pooling = LaterFrames(pooling, config.skipped_frames)
        return front_end, FrameEncoder(config), pooling

    @property
    def minimum_samples(self) -> int:
        """The shortest waveform: of its frames, a multiple of the time stride must be left to pool."""
        stride = self.config.time_stride
        frames = (self.config.skipped_frames // stride + 1) * stride
        return max(1, self.front_end.samples_for(frames) - self.config.padded_samples)

    @property
    def time_stride(self) -> int:
        return self.config.time_stride

    @property
    def padded_samples(self) -> int:
        return self.config.padded_samples

    def folded_front_end(self) -> FrontEnd:
        return folded_front_end(self.front_end)

    def folded_encoder(self, dtype: torch.dtype) -> Encoder:
        assert isinstance(self.encoder, FrameEncoder)
        return InferenceFrameEncoder(self.encoder).in_dtype(dtype)

    @classmethod
    def claims(cls, model_config: Mapping[str, Any]) -> bool:
        """A key that only this family's constructor has, or strides in pairs."""
        rows = model_config.get("stages_setup")
        first = rows[0] if isinstance(rows, (list, tuple)) and rows else None
        in_pairs = isinstance(first, (list, tuple)) and bool(first) and isinstance(first[0], (list, tuple))
        return in_pairs or not OWN_KEYS.isdisjoint(model_config)

    def official_entries(self) -> list[Entry]:
        return list(official_entries(self.config))

    def to_official(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return ``(model_config, state_dict)`` with the official names and shapes; the inverse of :meth:`from_official`.

        Raises:
            TrainingError: this is an inference copy, whose weights are folded, or a network that was cut.
        """
        if self.config.depth is not None:
            raise TrainingError(
                f"a network that was cut after {self.config.depth} stages cannot be converted: it keeps the head of the whole "
                "network, which the official format cannot say; convert that one"
            )
        return super().to_official()

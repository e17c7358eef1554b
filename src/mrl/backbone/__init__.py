"""The ReDimNet network: configuration, front end, encoder, pooling, and the exact conversion from and to official weights."""

from mrl.backbone.config import FrontEndConfig, ReDimNetConfig, StageConfig
from mrl.backbone.redimnet import ReDimNet
from mrl.backbone.spec_augment import SpecAugment
from mrl.backbone.variants import SCRATCH_NAMES, scratch_config
from mrl.backbone.waveforms import Audio

__all__ = [
    "SCRATCH_NAMES",
    "Audio",
    "FrontEndConfig",
    "ReDimNet",
    "ReDimNetConfig",
    "SpecAugment",
    "StageConfig",
    "scratch_config",
]

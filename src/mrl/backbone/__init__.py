"""The ReDimNet network: configuration, front end, encoder, pooling, and the exact conversion from and to official weights."""

from mrl.backbone.config import FrontEndConfig, ReDimNetConfig, StageConfig
from mrl.backbone.redimnet import ReDimNet
from mrl.backbone.waveforms import Audio

__all__ = ["Audio", "FrontEndConfig", "ReDimNet", "ReDimNetConfig", "StageConfig"]

from .config import FrontEndConfig as FrontEndConfig
from .config import ReDimNetConfig as ReDimNetConfig
from .config import StageConfig as StageConfig
from .redimnet import ReDimNet as ReDimNet
from .spec_augment import SpecAugment as SpecAugment
from .variants import SCRATCH_NAMES as SCRATCH_NAMES
from .variants import scratch_config as scratch_config
from .waveforms import Audio as Audio

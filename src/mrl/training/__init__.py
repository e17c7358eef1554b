"""How models are trained: configuration, stages, checkpoints, and two functions for those who bring their own loader.

Names are imported when first used, so that reading a configuration does not import torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Hearing: recordings in, ``(samples,)`` float32 waveforms at 16 kHz out; augmentation; synthetic voices.

No torch here. Decoders and resamplers are imported when they are first needed.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

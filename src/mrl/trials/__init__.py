"""Trial lists: reading, making and checking them, their speakers and enrolment maps. NumPy only; no audio, no models."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

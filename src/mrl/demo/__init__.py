"""The whole pipeline in minutes: voices, a backbone, a Matryoshka model in two stages, error rates at every dimension."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

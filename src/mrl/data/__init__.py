"""Which utterances are trained on: corpora, crops, the order of drawing, and the cache of pooled statistics."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

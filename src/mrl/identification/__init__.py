"""Enrolled voices: a store of them, comparing recordings with them, and finding a voice among very many."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

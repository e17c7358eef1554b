"""Embeddings of many recordings: which network, which files, and in what format they are kept."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

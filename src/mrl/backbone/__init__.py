"""The networks: a protocol for all (:class:`Backbone`), a folder for each family, exact conversion of official weights."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

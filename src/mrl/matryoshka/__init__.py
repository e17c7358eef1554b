"""What this project adds to ReDimNet: a head whose every prefix is an embedding, its closed-form start, and its losses."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

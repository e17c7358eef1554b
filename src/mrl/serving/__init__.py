"""A small local web page and HTTP API for enrolled voices: ``mrl serve``.

The extra ``serve`` installs what it needs (FastAPI, uvicorn, python-multipart), imported when a server is made.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

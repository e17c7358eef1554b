"""A small local web page and HTTP API for enrolled voices: ``mrl serve``.

The extra ``serve`` installs what it needs (FastAPI, uvicorn, python-multipart), imported when a server is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mrl.lazy import lazy_attributes

if TYPE_CHECKING:
    from mrl.serving.app import create_app
    from mrl.serving.limits import Limits
    from mrl.serving.running import serve
    from mrl.serving.service import VoiceService

_LATER = {"create_app": "app", "Limits": "limits", "serve": "running", "VoiceService": "service"}

__all__ = ["create_app", "Limits", "serve", "VoiceService"]

__getattr__ = lazy_attributes(__name__, _LATER)

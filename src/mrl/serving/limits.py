"""How much a request may ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mrl.errors import InputError


@dataclass(frozen=True)
class Limits:
    """What a server accepts.

    Attributes:
        max_bytes: of the body of one request.
        max_seconds: duration of one recording.
        max_files: recordings in one request.
        max_name: characters of a voice's name.
        max_requests: that are worked on or wait at the same time; one more is told to come back later.
        upload_seconds: in which the body of a request must have arrived.
    """

    max_bytes: int = 20_000_000
    max_seconds: float = 60.0
    max_files: int = 10
    max_name: int = 100
    max_requests: int = 64
    upload_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_seconds", "max_files", "max_name", "max_requests", "upload_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} must be a finite number above 0, found {value}")

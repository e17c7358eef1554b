"""What a request is refused with: a status and one line."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from mrl.errors import AudioLoadingError, DataError, InputError, MRLError

RETRY_SECONDS = 2


class Refusal(MRLError):
    """A request cannot be served.

    Attributes:
        status: of HTTP.
        headers: that go with it.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


def too_busy() -> Refusal:
    """The refusal of one request too many."""
    return Refusal(503, "the server is busy; try again in a moment", {"Retry-After": str(RETRY_SECONDS)})


def refusal_of(error: MRLError, store: Path) -> Refusal:
    """Return what a client is told of an error of this package; the path of the store is nothing to it."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, (AudioLoadingError, InputError)):
        return Refusal(422, one_line(error))
    if isinstance(error, DataError):
        if isinstance(error.__cause__, sqlite3.Error):
            message = "the voice store cannot be used now, nothing was changed; the server's log says why"
            return Refusal(503, message, {"Retry-After": str(RETRY_SECONDS)})
        return Refusal(409, one_line(error).replace(str(store), "the store"))
    return Refusal(500, "the model cannot be used; the server's log says why")


def error_body(message: str) -> bytes:
    """Return ``{"error": message}``; ASCII, so that no character whatever can make it fail."""
    return json.dumps({"error": " ".join(message.split())}).encode("ascii")


def one_line(error: BaseException) -> str:
    """Return an error's message on one line."""
    return " ".join(str(error).split())

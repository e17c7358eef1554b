"""What every request passes before anything of it is believed: host, token, kind and size of its body, and whether there is room.

A plain ASGI wrapper, since frameworks read and parse a body before they ask who sent it.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import math
import os
import secrets
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mrl.bounded import open_regular
from mrl.errors import AudioLoadingError, DataError, InputError, MRLError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


# Which addresses are this machine's alone, and under which names a page may reach the server.
#
# A page from elsewhere cannot read what this server answers, unless its author lets the name of that page point to 127.0.0.1
# after it has been loaded (DNS rebinding). The Host header then still has that name, and is refused.


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def allowed_hosts(host: str) -> frozenset[str] | None:
    """Return the names by which a server bound to ``host`` may be called; None: any.

    A server for others may have any name in their network; what keeps strangers out there is the token, which is always needed.
    """
    if not is_loopback(host):
        return None
    return frozenset({"localhost", "127.0.0.1", "::1", host.lower()})


def host_name(header: str) -> str:
    """Return the name in a Host header, without port; empty where there is none."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].rstrip(".")


# The token that a request must carry, and when one is made up.


_SHORTEST = 16


_LONGEST = 500


def new_token() -> str:
    """Return a random token of 192 bits."""
    return secrets.token_urlsafe(24)


def checked_token(token: str) -> str:
    """Return a token that the user chose.

    Raises:
        InputError: it is too short to be a secret, or cannot be sent in a header.
    """
    if not (_SHORTEST <= len(token) <= _LONGEST and token.isascii() and token.isprintable() and " " not in token):
        raise InputError(
            f"a token has {_SHORTEST} to {_LONGEST} printable ASCII characters without spaces, this one has {len(token)}; "
            "make one with: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token


def read_token(path: str | os.PathLike[str]) -> str:
    """Return the token in a file, without white space around it.

    Raises:
        InputError: the file cannot be read or holds no usable token.
    """
    try:
        with open_regular(path, error=InputError) as stream:
            text = stream.read(_LONGEST * 2).decode("ascii", errors="replace").strip()
    except OSError as error:
        raise InputError(f"the token file {os.fspath(path)} cannot be read ({error.strerror}); check its path") from error
    return checked_token(text)


def carries_token(authorization: bytes, token: str) -> bool:
    """Return whether an Authorization header is ``Bearer TOKEN``; the time taken tells nothing of the token."""
    scheme, _, given = authorization.partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token.encode())


# How much a request may ask for.


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


# What a request is refused with: a status and one line.


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


PUBLIC_PATHS = frozenset({"/", "/page.css", "/page.js", "/docs", "/openapi.json", "/api/health"})
"""What may be seen without the token; everything else needs it, whether it exists or not."""


_UNCOUNTED_PATHS = PUBLIC_PATHS  # these cost next to nothing, and say that the server lives when it is busy


_DRAIN_SECONDS = 2.0


_BODY_SLACK = 1.25  # a refused body is read so much farther, so that the sender gets to see the answer


SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; media-src blob:; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Gate:
    """Wraps an application.

    Args:
        app: the application.
        token: that requests must carry, except for the :data:`PUBLIC_PATHS`.
        hosts: names by which the server may be called; None: any.
        limits: on bodies and on requests at the same time.
    """

    def __init__(self, app: ASGIApp, *, token: str, hosts: frozenset[str] | None, limits: Limits) -> None:
        self._app, self._token, self._hosts, self._limits = app, token, hosts, limits
        self._requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        body = _Body(receive, self._limits)
        answer = _Answer(send, body)
        try:
            self._check(scope)
        except Refusal as refusal:
            await answer.refuse(refusal)
            return
        counted = scope["path"] not in _UNCOUNTED_PATHS
        self._requests += counted
        try:
            await self._app(scope, body.receive, answer.send)
        finally:
            self._requests -= counted

    def _check(self, scope: Scope) -> None:
        """Raise the :class:`Refusal` of a request that its headers condemn."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        named = [value for name, value in scope["headers"] if name == b"host"]
        if self._hosts is not None and (len(named) != 1 or host_name(named[0].decode("latin-1")) not in self._hosts):
            raise Refusal(400, "this server is called by another name; open the address that mrl serve printed")
        if scope["path"] in PUBLIC_PATHS:
            return
        if not carries_token(headers.get(b"authorization", b""), self._token):
            message = "the token is missing or wrong; mrl serve printed it, or its owner chose it"
            raise Refusal(401, message, {"WWW-Authenticate": "Bearer"})
        length = headers.get(b"content-length", b"0")
        if not length.isdigit():
            raise Refusal(400, "the Content-Length is no number")
        if int(length[:20]) > self._limits.max_bytes:
            raise _too_large(self._limits)
        if scope["method"] == "POST":
            kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
            if kind != b"multipart/form-data":
                raise Refusal(415, "send the recording as multipart/form-data")
        if self._requests >= self._limits.max_requests:
            raise too_busy()


def _too_large(limits: Limits) -> Refusal:
    return Refusal(413, f"a request may have {limits.max_bytes / 1e6:g} MB at most; send fewer or shorter recordings")


class _Body:
    """The body of a request as the application reads it: no longer, and no slower, than allowed."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self._receive, self._limits = receive, limits
        self._bytes = 0
        self._ended = False
        self._deadline = time.monotonic() + limits.upload_seconds
        self.refusal: Refusal | None = None

    async def receive(self) -> Message:
        if self._ended:  # what comes now is the end of the connection, which may take its time
            return await self._receive()
        if self.refusal is None:
            try:
                message = await asyncio.wait_for(self._receive(), max(0.0, self._deadline - time.monotonic()))
            except asyncio.TimeoutError:
                seconds = self._limits.upload_seconds
                self.refusal = Refusal(408, f"the recording did not arrive within {seconds:g} s; send a shorter one")
            else:
                self._note(message)
                if self._bytes <= self._limits.max_bytes:
                    return message
                self.refusal = _too_large(self._limits)
        raise self.refusal

    async def drain(self) -> None:
        """Read what is still coming, within reason, and throw it away."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        while not self._ended and self._bytes <= _BODY_SLACK * self._limits.max_bytes and time.monotonic() < deadline:
            try:
                self._note(await asyncio.wait_for(self._receive(), deadline - time.monotonic()))
            except asyncio.TimeoutError:
                return

    def _note(self, message: Message) -> None:
        self._bytes += len(message.get("body", b""))
        self._ended = message["type"] == "http.disconnect" or not message.get("more_body", False)


class _Answer:
    """The answer to a request: security headers on every one, and a refusal of the body instead of what the application says."""

    def __init__(self, send: Send, body: _Body) -> None:
        self._send, self._body = send, body
        self._refused = False

    async def send(self, message: Message) -> None:
        if self._refused:
            return
        if self._body.refusal is not None:
            await self.refuse(self._body.refusal)
            return
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message["headers"]}
            added = [(name, value) for name, value in _encoded(SECURITY_HEADERS) if name not in names]
            message = {**message, "headers": [*message["headers"], *added]}
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        self._refused = True
        if refusal.status != 408:  # else nothing is coming
            await self._body.drain()
        body = error_body(str(refusal))
        headers = {
            **SECURITY_HEADERS,
            **refusal.headers,
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
        await self._send({"type": "http.response.start", "status": refusal.status, "headers": list(_encoded(headers))})
        await self._send({"type": "http.response.body", "body": body})


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]

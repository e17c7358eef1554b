"""Connections that ask for nothing: they end after a few seconds, and make room for others before that where it is needed.

uvicorn bounds how many connections there are, but not how long one may take to send the head of a request; some hundred that send
nothing would keep everybody else out. uvicorn is needed where this module is imported.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


@dataclass(frozen=True)
class ConnectionLimits:
    """How many connections there may be, and how long.

    Attributes:
        total: of all clients together.
        per_client: of one address.
        head_seconds: in which the head of a request must have arrived, counted from the connection's start or from the end of the
            answer before.
        request_seconds: in which a request must have been sent, answered and read.
    """

    total: int = 256
    per_client: int = 64
    head_seconds: float = 10.0
    request_seconds: float = 300.0


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol with the bounds of :class:`ConnectionLimits`."""

    limits = ConnectionLimits()

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._deadline: asyncio.TimerHandle | None = None
        self._refused = False

    @property
    def is_idle(self) -> bool:
        """Whether no request is being worked on."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect(self.limits.head_seconds)
        mine = [other for other in self._others() if other.address == self.address]
        if len(mine) >= self.limits.per_client:
            self._make_room(mine)
        if not self._refused and len(self._others()) >= self.limits.total:
            self._make_room(self._others())

    @property
    def address(self) -> str:
        """Of the client."""
        return self.client[0] if self.client else ""

    def data_received(self, data: bytes) -> None:
        was_idle = self.is_idle
        super().data_received(data)
        if was_idle and not self.is_idle:
            self._expect(self.limits.request_seconds)

    def on_response_complete(self) -> None:
        self._expect(self.limits.head_seconds)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def end(self) -> None:
        """End the connection at once."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.abort()
        self.connections.discard(self)

    def _others(self) -> list[BoundedProtocol]:
        return [other for other in self.connections if isinstance(other, BoundedProtocol) and other is not self]

    def _make_room(self, among: list[BoundedProtocol]) -> None:
        """End the idle connection that is nearest to its end anyway; where all are at work, this one."""
        idle = [each for each in among if each.is_idle and each._deadline is not None]
        if idle:
            min(idle, key=lambda each: each._deadline.when() if each._deadline is not None else 0.0).end()
        else:
            self._refused = True
            self.end()

    def _expect(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self.end)

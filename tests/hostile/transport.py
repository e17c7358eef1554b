"""A connection to the application through uvicorn's own protocol, without sockets."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
import uvicorn
from uvicorn.server import ServerState

from mrl.serving.connections import BoundedProtocol


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 5), "sockname": ("127.0.0.1", 8000)}.get(name, default)

    def write(self, data: Any) -> None:
        self.sent += data

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


async def answer_to(app: Any, sent: bytes) -> bytes:
    """Send bytes, wait for what is being worked on, hang up, and return what was answered."""
    config = uvicorn.Config(app, http=BoundedProtocol, ws="none", lifespan="off", log_config=None, access_log=False)
    config.load()
    state = ServerState()
    protocol = BoundedProtocol(config=config, server_state=state, app_state={}, _loop=asyncio.get_running_loop())
    transport = _Transport()
    protocol.connection_made(transport)
    if sent:  # asyncio never hands over an empty read; h11 would take it for the end of the stream, and uvicorn loop on it
        protocol.data_received(sent)
    if protocol.conn.their_state is h11.SEND_BODY:  # no more of the body will come: the application may answer before it, or not
        for _ in range(20):
            await asyncio.sleep(0)
    elif state.tasks:
        await asyncio.wait(list(state.tasks), timeout=5.0)
    protocol.connection_lost(None)
    if state.tasks:
        await asyncio.wait(list(state.tasks), timeout=5.0)
    return bytes(transport.sent)

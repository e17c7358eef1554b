"""Ctrl-C ends a command within two seconds, whatever it is doing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator

EXIT_INTERRUPTED = 130
_SECONDS = 1.5


@contextlib.contextmanager
def ended_by_interrupt() -> Iterator[None]:
    """While the block runs, Ctrl-C raises ``KeyboardInterrupt`` as ever, and ends the process where that does not come through.

    Python sees a signal between two of its own instructions. A library that decodes an hour of audio, or multiplies matrices,
    is one instruction; but the system notes the signal at once, and a thread that waits for nothing else can end the process.
    Files appear under their names only when they are complete, so nothing is left half-written.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting, noting = socket.socketpair()
    noting.setblocking(False)
    ended = threading.Event()

    def watch() -> None:
        while noted := waiting.recv(64):
            if signal.SIGINT in noted:
                if not ended.wait(_SECONDS):
                    os.write(2, b"mrl: interrupted\n")
                    os._exit(EXIT_INTERRUPTED)
                return

    before = signal.set_wakeup_fd(noting.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=watch, name="interrupt", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        noting.close()
        thread.join()
        waiting.close()

"""SIGTERM, as schedulers send it before they take a machine away.

Between optimizer steps it becomes a wish that the loop grants after saving. Elsewhere (while the cache is computed, or during
validation) the run stops at once: whatever is written there is written whole or not at all, and the next run goes on from it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

EXIT_INTERRUPTED = 75
"""Exit status of a run that was asked to stop (SIGTERM), saved everything and can be resumed (EX_TEMPFAIL of sysexits.h)."""


class Stopped(BaseException):
    """The run was asked to stop at a place where nothing is left to save; not an error, hence no Exception."""


class StopRequest:
    """Whether somebody has asked the run to stop."""

    def __init__(self) -> None:
        self.requested = False
        self._deferring = False

    def ask(self) -> None:
        """Note the wish to stop.

        Raises:
            Stopped: not within :meth:`deferred`.
        """
        self.requested = True
        if not self._deferring:
            raise Stopped

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """While the block runs, a request only sets :attr:`requested`; the block looks at it where it can save."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[StopRequest]:
    """Yield a request that SIGTERM makes while the block runs; outside the main thread signals cannot be caught, so none is."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    process = os.getpid()

    def note(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a worker that was forked has nothing to save
            os._exit(128 + number)
        request.ask()

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)

"""Running one hostile case: what it did, and what it took of time and memory."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from mrl.errors import MRLError

SECONDS = 1.0
"""The most processor time that a hostile file may take, in seconds."""
MEGABYTES = 500.0
"""The most memory, in 10^6 bytes, that a hostile file may add to the process."""

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_UNIT = 1 if sys.platform == "darwin" else 1024  # of the highest memory use that the system reports


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one case.

    Attributes:
        kind: "result", or the name of the error's class.
        allowed: whether that was a result or one of our errors, on one line that a terminal can show.
        said: the error's message.
        seconds: processor time.
        megabytes: added to the memory of the process at the highest, in 10^6 bytes; where the highest cannot be set back (systems
            other than Linux), only what goes beyond that of earlier cases.
    """

    kind: str
    allowed: bool
    said: str
    seconds: float
    megabytes: float

    @property
    def within_limits(self) -> bool:
        return self.seconds <= SECONDS and self.megabytes <= MEGABYTES


@contextlib.contextmanager
def bounded_memory(megabytes: float = 4 * MEGABYTES) -> Iterator[None]:
    """Let no case take so much that the machine suffers: what is beyond is refused by the system, as on a small machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = _status("VmSize")
    if now:
        resource.setrlimit(resource.RLIMIT_AS, (int((now + megabytes) * 1e6), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def attempt(action: Callable[[], Any]) -> Outcome:
    """Run one case; only what the interpreter itself needs (an interrupt, an exit) passes through."""
    _restart_peak()
    before = _peak()
    kind, allowed, said = "result", True, ""
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            action()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # panics of libraries written in Rust are no Exception
            said = str(error)
            kind = f"{type(error).__module__}.{type(error).__name__}"
            allowed = isinstance(error, MRLError) and is_one_clean_line(said)
    return Outcome(kind, allowed, said, time.process_time() - start, _peak() - before)


def is_one_clean_line(message: str) -> bool:
    """Whether a message is one line without control characters, of a length that somebody reads."""
    return bool(message) and message.isprintable() and len(message) <= 2000


def _peak() -> float:
    """Return the highest memory use of this process, in 10^6 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT / 1e6


def _restart_peak() -> None:
    """Let the highest memory use count from here on, where the system can."""
    stream = _clear_refs()
    if stream is not None:
        stream.write(b"5")


@functools.lru_cache(maxsize=1)
def _clear_refs() -> IO[bytes] | None:
    """Kept open: opening it for every case would take longer than most cases."""
    try:
        return _CLEAR.open("wb", buffering=0)
    except OSError:
        return None


def _status(name: str) -> float:
    """Return a figure of this process in 10^6 bytes."""
    if not _STATUS.is_file():
        return 0.0
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0

"""A server around a tiny exported network, and recordings to send to it."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

from mrl.embeddings import Embedder, open_embedder
from mrl.scoring.calibration import Calibration, DimCalibration
from mrl.serving import Limits, VoiceService, create_app
from mrl.serving.running import make_server
from tests.runtime.golden.record import EXPORTED

TOKEN = "a-token-for-tests-only"
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def embedder(*, calibrated: bool = False) -> Embedder:
    """24 numbers out, prefixes of 8 and 16; the calibration covers 8 and 24."""
    opened = open_embedder(EXPORTED, threads=1)
    if not calibrated:
        return opened
    one = DimCalibration(8, 12.0, -5.0, 0.0, 0.0, 1.0, 0.2, None, 0.1, 0.2, 0.1, ())
    dims = {8: one, 24: DimCalibration(24, 20.0, -15.0, 0.0, 0.0, 1.0, 0.2, None, 0.1, 0.2, 0.1, ())}
    return opened.with_calibration(Calibration(dims, "none", 0.05, None, {"source": "x"}, ""))


def recording(seed: int = 0, *, seconds: float = 1.5, rate: int = 16_000, form: str = "WAV") -> bytes:
    """A buzz with a melody of its own, encoded."""
    random = np.random.default_rng(seed)
    times = np.arange(round(seconds * rate)) / rate
    pitch = 90 + 30 * (seed % 7) + 20 * np.sin(2 * np.pi * random.uniform(1, 4) * times)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    tone = sum(np.sin(harmonic * phase) * random.uniform(0.1, 1) / harmonic for harmonic in range(1, 20))
    samples = 0.1 * tone + 0.003 * random.standard_normal(len(times))
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=form)
    return stream.getvalue()


@contextlib.contextmanager
def application(
    store: Path,
    *,
    limits: Limits | None = None,
    model: Embedder | None = None,
    hosts: frozenset[str] | None = LOOPBACK,
    threads: int = 2,
) -> Iterator[object]:
    """The ASGI application."""
    agreed = limits or Limits()
    with ThreadPoolExecutor(threads) as workers:
        service = VoiceService(model or embedder(), store, agreed)
        yield create_app(service, token=TOKEN, hosts=hosts, limits=agreed, workers=workers)


@contextlib.contextmanager
def running(app: object) -> Iterator[str]:
    """A real server at a port of 127.0.0.1; yields its address."""
    server = make_server(app)  # type: ignore[arg-type]
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()

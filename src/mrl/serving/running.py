"""Starting a server: model and store opened, address taken, token settled, until somebody stops it."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mrl.errors import InputError, MissingDependencyError
from mrl.runtime.session import usable_processors
from mrl.serving.gate import Limits, allowed_hosts, checked_token, is_loopback, new_token, read_token

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

_SHUTDOWN_SECONDS = 1


def serve(
    model: str | os.PathLike[str],
    store: str | os.PathLike[str],
    *,
    weights: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    token_file: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
    threads: int | None = None,
    announce: Callable[[str], None],
) -> None:
    """Serve the page and the API until the process is interrupted.

    Args:
        model: as for :func:`mrl.embeddings.open_embedder`.
        store: the voice store's file, made if it is not there.
        weights: for a released model's name, where its file is.
        host: address to listen at.
        port: 0 for any free one.
        token: that requests must carry; a random one by default, for an address of this machine's own only.
        token_file: a file with the token.
        limits: on requests.
        threads: recordings that are embedded at the same time, each on one processor; as many as there are processors by default.
        announce: called with the address of the page once connections are accepted.

    Raises:
        MissingDependencyError: the extra ``serve`` is not installed.
        InputError: the address cannot be used, no token for an address that others can reach, or unusable arguments.
        MRLError: the model or the store cannot be used.
    """
    _require_packages()
    from mrl.embeddings import open_embedder
    from mrl.serving.app import create_app
    from mrl.serving.service import VoiceService

    agreed = limits or Limits()
    secret, made_up = _settle_token(host, token, token_file)
    workers = _workers(threads)
    listening = _listen(host, port)  # before the model is opened, which may take long
    with contextlib.closing(listening):
        embedder = open_embedder(model, weights=weights, threads=1)
        _one_thread_each()
        service = VoiceService(embedder, store, agreed)
        with ThreadPoolExecutor(workers, thread_name_prefix="mrl-serve") as pool:
            app = create_app(service, token=secret, hosts=allowed_hosts(host), limits=agreed, workers=pool)
            listening.listen(128)
            announce(_address(listening, host) + (f"#token={secret}" if made_up else ""))
            with contextlib.suppress(KeyboardInterrupt):  # the usual way to end a server
                make_server(app).run(sockets=[listening])


def make_server(app: ASGIApp) -> uvicorn.Server:
    """Return a server for the application, which is yet to run."""
    import uvicorn

    from mrl.serving.connections import BoundedProtocol

    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,  # addresses hold names of voices
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    return uvicorn.Server(config)


def _require_packages() -> None:
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(f'mrl serve needs {error.name}: pip install "redimnet-mrl[serve]"') from error


def _settle_token(host: str, token: str | None, token_file: str | os.PathLike[str] | None) -> tuple[str, bool]:
    """Return the token and whether it was generated."""
    if token is not None and token_file is not None:
        raise InputError("give the token or a file with it, not both")
    if token is not None:
        return checked_token(token), False
    if token_file is not None:
        return read_token(token_file), False
    if not is_loopback(host):
        raise InputError(f"others can reach {host}: give a token of your own (--token-file), or listen at 127.0.0.1")
    return new_token(), True


def _workers(threads: int | None) -> int:
    if threads is None:
        return usable_processors()
    if isinstance(threads, bool) or threads < 1:
        raise InputError(f"threads must be a whole number from 1 up, found {threads}")
    return threads


def _one_thread_each() -> None:
    """Let every call of a network in torch, where that has been loaded, run on one processor: calls run side by side instead."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address, not yet accepting connections."""
    if not 0 <= port <= 65535:
        raise InputError(f"a port lies in 0..65535, found {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"{host} is no address of this machine ({error.strerror or error}); use 127.0.0.1") from error
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
    except OSError as error:
        opened.close()
        said = error.strerror or str(error)
        raise InputError(f"cannot listen at {host}, port {port} ({said}); choose another (--port, --host)") from error
    return opened


def _address(listening: socket.socket, host: str) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listening.getsockname()[1]}/"

"""A real HTTP server on this machine whose faults can be chosen."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Answers:
    """What the server holds and how it misbehaves; ``requests`` logs (path, Range header, status)."""

    files: dict[str, bytes] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)
    """Statuses to answer with first, one per request."""
    cut_after: list[int] = field(default_factory=list)
    """Break off the first bodies after so many bytes (counted within the body), one per request."""
    stall_after: int | None = None
    """Fall silent after so many bytes of every body."""
    ignore_range: bool = False
    no_length: bool = False
    content_type: str = "application/octet-stream"
    retry_after: str | None = None
    requests: list[tuple[str, str | None, int]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def ranges(self) -> list[str | None]:
        return [byte_range for _, byte_range, _ in self.requests]


@contextlib.contextmanager
def running(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve by a handler until the block ends; yield the address, without a slash."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def serving(answers: Answers) -> Iterator[str]:
    """Serve until the block ends; yield the base address with its slash."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            return

        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            body = answers.files.get(name)
            if answers.statuses:
                self._refuse(answers.statuses.pop(0))
            elif body is None:
                self._refuse(404)
            else:
                self._send(name, body)

        def _refuse(self, status: int) -> None:
            self._log(status)
            self.send_response(status)
            if answers.retry_after is not None:
                self.send_header("Retry-After", answers.retry_after)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _log(self, status: int) -> None:
            answers.requests.append((self.path, self.headers.get("Range"), status))

        def _send(self, name: str, body: bytes) -> None:
            etag = answers.etags.get(name)
            start = self._range_start(etag)
            if start is not None and start >= len(body):
                self._log(416)
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            status = 200 if start is None else 206
            self._log(status)
            self.send_response(status)
            if start is not None:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            payload = body[start or 0 :]
            if not answers.no_length:
                self.send_header("Content-Length", str(len(payload)))
            self.send_header("Content-Type", answers.content_type)
            if etag is not None:
                self.send_header("ETag", etag)
            self.end_headers()
            if answers.cut_after:
                self.wfile.write(payload[: answers.cut_after.pop(0)])
                self.close_connection = True
            elif answers.stall_after is not None:
                self.wfile.write(payload[: answers.stall_after])
                answers.stop.wait(20.0)
            else:
                self.wfile.write(payload)

        def _range_start(self, etag: str | None) -> int | None:
            match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            if match is None or answers.ignore_range:
                return None
            condition = self.headers.get("If-Range")
            return None if condition is not None and condition != etag else int(match.group(1))

    with running(Handler) as address:
        try:
            yield f"{address}/releases/"
        finally:
            answers.stop.set()

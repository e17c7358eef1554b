"""Fetching one address over HTTP into one file: with retries, back-off and resumption after an interruption."""

from __future__ import annotations

import contextlib
import http.client
import logging
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from email.message import Message
from io import FileIO
from pathlib import Path
from typing import Any, NoReturn

from mrl.bounded import read_json, record
from mrl.errors import DataError, DownloadError
from mrl.files import write_json
from mrl.progress import progress_bar
from mrl.version import __version__

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 16
_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_DELAY_SECONDS = 60.0
_NUMBER = re.compile("[0-9]{1,18}")
_NOTE_BYTES = 100_000


@dataclass(frozen=True)
class TransferSettings:
    """How patient a download is."""

    attempts: int = 4
    """Tries in all; each goes on where the last one stopped, if the server can."""
    timeout_seconds: float = 30.0
    """Longest silence of the server, while connecting and between two pieces."""
    first_delay_seconds: float = 1.0
    """Pause before the second try; doubled before each further one."""
    most_bytes: int = 8 << 30
    """The largest file where its size is not known."""


class _PassingError(Exception):
    """A failure that may be gone at the next try."""

    def __init__(self, reason: str, *, delay_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.delay_seconds = delay_seconds


@dataclass(frozen=True)
class _PartialState:
    """What must still hold for a partial file to be gone on with; kept beside it."""

    url: str
    validator: str | None
    total: int | None


def is_http_url(text: str) -> bool:
    """Whether the text is an http or https address."""
    try:
        return urllib.parse.urlsplit(text).scheme.lower() in ("http", "https")
    except ValueError:  # half an IPv6 address, and the like
        return text.lower().startswith(("http://", "https://"))


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only, and from https never to http."""

    def redirect_request(self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        before, after = req.full_url.partition(":")[0].lower(), newurl.partition(":")[0].lower()
        if after not in ("http", "https") or (before == "https" and after != "https"):
            raise DownloadError(
                f"{req.full_url} leads to {newurl}, by a weaker protocol than it was asked for; it is not followed"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch_url(
    url: str,
    partial: Path,
    *,
    expected_bytes: int | None = None,
    will_be_verified: bool = False,
    show_progress: bool = True,
    settings: TransferSettings | None = None,
) -> bool:
    """Fetch ``url`` completely into the file ``partial``.

    What an interrupted earlier call left in ``partial`` is gone on with when the server confirms that the file is the same one
    (``If-Range`` with its ETag or date) or, without such a mark, when ``will_be_verified`` says that the caller knows the hash.

    Args:
        url: http or https address.
        partial: where to write; the caller checks it and renames it. Needs a lock of the caller's against other processes.
        expected_bytes: size that the file must have, where known.
        will_be_verified: the caller will check the content against a known hash.
        show_progress: draw a progress bar (on a terminal only).
        settings: attempts, timeout, pauses.

    Returns:
        True when the file was joined from more than one answer, so that a wrong hash may be the joint's fault.

    Raises:
        DownloadError: with the reason alone; the caller adds what to do. ``partial`` stays only if it can be gone on with.
    """
    settings = settings or TransferSettings()
    transfer = _Transfer(
        url, partial, expected_bytes, will_be_verified, show_progress, settings.timeout_seconds, settings.most_bytes
    )
    for attempt in range(1, settings.attempts + 1):
        try:
            return transfer.attempt()
        except _PassingError as error:
            if attempt == settings.attempts:
                if not _state_path(partial).exists():
                    discard_partial(partial)
                tries = "" if attempt == 1 else f" ({attempt} attempts)"
                raise DownloadError(f"{error}{tries}") from error
            delay = settings.first_delay_seconds * 2 ** (attempt - 1) if error.delay_seconds is None else error.delay_seconds
            logger.warning("%s; trying again in %.3g s (attempt %d of %d)", error, delay, attempt + 1, settings.attempts)
            time.sleep(delay)
    raise DownloadError(f"settings.attempts is {settings.attempts}; at least one attempt is needed")


def discard_partial(partial: Path) -> None:
    """Remove a partial file and the note beside it."""
    partial.unlink(missing_ok=True)
    _state_path(partial).unlink(missing_ok=True)


class _Transfer:
    def __init__(
        self,
        url: str,
        partial: Path,
        expected_bytes: int | None,
        will_be_verified: bool,
        show_progress: bool,
        timeout_seconds: float,
        most_bytes: int,
    ) -> None:
        self._url = url
        try:
            self._host = urllib.parse.urlsplit(url).netloc.rpartition("@")[2]
        except ValueError as error:
            raise DownloadError(f"{url!r} is not a usable address: {error}") from error
        self._partial = partial
        self._expected_bytes = expected_bytes
        self._will_be_verified = will_be_verified
        self._show_progress = show_progress
        self._timeout_seconds = timeout_seconds
        self._most_bytes = most_bytes

    def attempt(self) -> bool:
        state = _read_state(self._partial, self._url, self._will_be_verified)
        offset = self._partial.stat().st_size if state is not None else 0
        with contextlib.ExitStack() as stack:
            try:
                response = stack.enter_context(self._open(state, offset))
            except urllib.error.HTTPError as error:
                with error:
                    if error.code == 416 and offset:
                        if _total_of(error.headers) == offset:
                            return True
                        discard_partial(self._partial)
                        raise _PassingError(f"{self._host} holds less than was fetched before", delay_seconds=0.0) from error
                    self._refuse_status(error)
            start, total = self._check_answer(response, state, offset)
            self._receive(response, start, total)
        return start > 0

    def _open(self, state: _PartialState | None, offset: int) -> http.client.HTTPResponse:
        headers = {"User-Agent": f"redimnet-mrl/{__version__}", "Accept-Encoding": "identity"}
        if state is not None and offset:
            headers["Range"] = f"bytes={offset}-"
            if state.validator is not None:
                headers["If-Range"] = state.validator
        with self._network_errors():
            request = urllib.request.Request(self._url, headers=headers)
            opener = urllib.request.build_opener(_SafeRedirects)
            response: http.client.HTTPResponse = opener.open(request, timeout=self._timeout_seconds)
            return response

    def _refuse_status(self, error: urllib.error.HTTPError) -> NoReturn:
        reason = f"{self._host} answered HTTP {error.code} {error.reason} for {self._url}"
        if error.code in _PASSING_STATUS:
            raise _PassingError(reason, delay_seconds=_retry_after(error.headers)) from error
        discard_partial(self._partial)
        raise DownloadError(reason) from error

    def _check_answer(
        self, response: http.client.HTTPResponse, state: _PartialState | None, offset: int
    ) -> tuple[int, int | None]:
        """Return where in the file the answer's body begins and the file's whole size."""
        total = _total_of(response.headers)
        if response.status == 206:
            start = _range_start(response.headers)
            known_total = state.total if state is not None else None
            if start != offset or (known_total is not None and total != known_total):
                discard_partial(self._partial)
                raise _PassingError(f"{self._host} has another file now than when the download began", delay_seconds=0.0)
        else:
            start = 0  # Range ignored, or the file has changed since: begin again.
        if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
            self._refuse_web_page()
        if self._expected_bytes is not None and total is not None and total != self._expected_bytes:
            discard_partial(self._partial)
            raise DownloadError(f"{self._url} holds {total:,} bytes where {self._expected_bytes:,} were expected")
        validator = _validator_of(response.headers)
        if validator is not None or self._will_be_verified:
            self._write_state(_PartialState(self._url, validator, total))
        else:
            _state_path(self._partial).unlink(missing_ok=True)
        return start, total

    def _write_state(self, state: _PartialState) -> None:
        try:
            write_json(_state_path(self._partial), asdict(state))
        except OSError as error:
            self._refuse_writing(error)

    def _receive(self, response: http.client.HTTPResponse, start: int, total: int | None) -> None:
        description = self._partial.name.removeprefix(".").removesuffix(".part")
        received = start
        sizes = [size for size in (total, self._expected_bytes) if size is not None]
        most = min(sizes) if sizes else self._most_bytes
        kilobytes = None if total is None else -(-total // 1000)
        with (
            self._open_partial(append=start > 0) as stream,
            progress_bar(description, kilobytes, unit="kB", enabled=self._show_progress) as advance,
        ):
            advance(start // 1000)
            while True:
                with self._network_errors():
                    chunk = response.read1(_CHUNK_BYTES)
                if not chunk:
                    break
                if received == 0 and chunk.lstrip()[:1] == b"<":
                    self._refuse_web_page()
                if received + len(chunk) > most:
                    discard_partial(self._partial)
                    known = "it announced" if total == most else "were expected" if sizes else "a file of unknown size may have"
                    raise DownloadError(f"{self._url} sent more than the {most:,} bytes that {known}")
                self._write(stream, chunk)
                advance((received + len(chunk)) // 1000 - received // 1000)
                received += len(chunk)
        if total is not None and received < total:
            raise _PassingError(f"the connection to {self._host} ended after {received:,} of {total:,} bytes")

    def _open_partial(self, *, append: bool) -> FileIO:
        try:
            # Unbuffered, so that a full disk shows at the write that hits it and not when the file is closed.
            return self._partial.open("ab" if append else "wb", buffering=0)
        except OSError as error:
            self._refuse_writing(error)

    def _write(self, stream: FileIO, chunk: bytes) -> None:
        left = memoryview(chunk)
        try:
            while left:
                left = left[stream.write(left) :]  # An unbuffered write may take a part only.
        except OSError as error:
            self._refuse_writing(error)

    def _refuse_writing(self, error: OSError) -> NoReturn:
        with contextlib.suppress(OSError):
            discard_partial(self._partial)
        raise DownloadError(f"cannot write to {self._partial.parent}: {error.strerror or error}") from error

    def _refuse_web_page(self) -> NoReturn:
        discard_partial(self._partial)
        raise DownloadError(f"{self._url} gave a web page instead of the file (a login or proxy page?)")

    @contextlib.contextmanager
    def _network_errors(self) -> Iterator[None]:
        """Sort what urllib raises into failures that may pass and failures that will not."""
        try:
            yield
        except urllib.error.HTTPError:
            raise
        except (http.client.InvalidURL, ValueError) as error:
            raise DownloadError(f"{self._url!r} is not a usable address: {error}") from error
        except (OSError, http.client.HTTPException) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise DownloadError(f"the certificate of {self._host} cannot be trusted: {cause.verify_message}") from error
            if isinstance(cause, TimeoutError):
                raise _PassingError(f"{self._host} was silent for {self._timeout_seconds:g} s") from error
            if isinstance(cause, socket.gaierror):
                raise _PassingError(f"no network: the host {self._host} cannot be found ({cause.strerror})") from error
            if isinstance(cause, OSError) and not isinstance(cause, http.client.HTTPException):
                raise _PassingError(f"no connection to {self._host}: {cause.strerror or cause}") from error
            raise _PassingError(f"the connection to {self._host} broke: {cause}") from error


def _state_path(partial: Path) -> Path:
    return partial.with_name(partial.name + ".json")


def _read_state(partial: Path, url: str, will_be_verified: bool) -> _PartialState | None:
    """Return the note beside a partial file, or None (and remove both) when the file cannot be gone on with safely."""
    if not partial.exists():
        return None
    state: _PartialState | None = None
    with contextlib.suppress(OSError, DataError):  # An unreadable note only means: begin again.
        state = record(_PartialState, read_json(_state_path(partial), max_bytes=_NOTE_BYTES), str(_state_path(partial)))
    if state is None or state.url != url or (state.validator is None and not will_be_verified):
        discard_partial(partial)
        return None
    return state


def _validator_of(headers: Message) -> str | None:
    """Return what ``If-Range`` may carry: a strong ETag, else the date."""
    etag = headers.get("ETag")
    if etag is not None and not etag.startswith("W/"):
        return str(etag)
    modified = headers.get("Last-Modified")
    return None if modified is None else str(modified)


def _range_start(headers: Message) -> int | None:
    match = re.match(r"\s*bytes\s+([0-9]{1,18})-", headers.get("Content-Range", ""))
    return int(match.group(1)) if match else None


def _total_of(headers: Message) -> int | None:
    """Return the whole file's size as told by ``Content-Range`` or else by ``Content-Length``."""
    content_range = headers.get("Content-Range")
    if content_range is not None:
        match = re.search(r"/([0-9]{1,18})\s*$", content_range)
        return int(match.group(1)) if match else None
    length = headers.get("Content-Length", "")
    return int(length) if _NUMBER.fullmatch(length) else None


def _retry_after(headers: Message) -> float | None:
    seconds = headers.get("Retry-After", "")
    return min(float(seconds), _LONGEST_DELAY_SECONDS) if _NUMBER.fullmatch(seconds) else None

"""What a server may do to a download: send more than there is, lead to a weaker protocol, or hand over a damaged archive."""

from __future__ import annotations

import contextlib
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from mrl.errors import CheckpointError, DownloadError
from mrl.pretrained import fetch_checkpoint, find_by_name
from mrl.pretrained.cache import record_path
from mrl.transfer import TransferSettings, _SafeRedirects, fetch_url
from tests.hostile import corpus
from tests.pretrained.servers import Answers, running

HASTY = TransferSettings(attempts=2, timeout_seconds=5.0, first_delay_seconds=0.01, most_bytes=300_000)
ENDLESS = 50_000_000


@contextlib.contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """The address of a file on a server that answers in a way of its own."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            return

        def do_GET(self) -> None:
            answer(self)

    with running(Handler) as address:
        yield f"{address}/a.pt"


def endless(request: BaseHTTPRequestHandler) -> None:
    """Send far more than anybody asked for, without saying how much."""
    request.send_response(200)
    request.end_headers()
    with contextlib.suppress(OSError):  # the client has hung up
        for _ in range(ENDLESS // 100_000):
            request.wfile.write(bytes(100_000))


@pytest.mark.parametrize(("expected", "most"), [(200_000, 200_000), (None, HASTY.most_bytes)])
def test_a_download_ends_at_the_known_size_or_at_the_ceiling(expected: int | None, most: int, tmp_path: Path) -> None:
    partial = tmp_path / "a.part"
    with answering(endless) as address, pytest.raises(DownloadError, match=rf"more than .*{most:,} bytes"):
        fetch_url(address, partial, expected_bytes=expected, show_progress=False, settings=HASTY)
    assert not partial.exists() or partial.stat().st_size <= most


def test_a_size_that_is_not_the_known_one_is_refused_before_anything_is_fetched(
    server: str,
    answers: Answers,
    tmp_path: Path,
) -> None:
    answers.files = {"a.pt": bytes(5000)}
    with pytest.raises(DownloadError, match="holds 5,000 bytes where 4,000 were expected"):
        fetch_url(f"{server}a.pt", tmp_path / "a.part", expected_bytes=4000, show_progress=False, settings=HASTY)
    assert not (tmp_path / "a.part").exists()


@pytest.mark.parametrize(
    ("asked", "target", "followed"),
    [
        ("https://a.example/x.pt", "http://a.example/x.pt", False),
        ("https://a.example/x.pt", "ftp://a.example/x.pt", False),
        ("http://a.example/x.pt", "file:///etc/passwd", False),
        ("HTTPS://a.example/x.pt", "HTTP://a.example/x.pt", False),
        ("http://a.example/x.pt", "https://b.example/x.pt", True),
        ("https://a.example/x.pt", "https://b.example/x.pt", True),
        ("http://a.example/x.pt", "http://b.example/x.pt", True),
    ],
)
def test_redirects_to_weaker_protocols(asked: str, target: str, followed: bool) -> None:
    def redirect() -> urllib.request.Request | None:
        return _SafeRedirects().redirect_request(urllib.request.Request(asked), None, 302, "Found", HTTPMessage(), target)

    if followed:
        request = redirect()
        assert request is not None and request.full_url == target
    else:
        with pytest.raises(DownloadError, match="by a weaker protocol than it was asked for; it is not followed"):
            redirect()


def test_a_redirect_of_a_real_server_to_a_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x" * 100)

    def redirect(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", (tmp_path / "secret").as_uri())
        request.send_header("Content-Length", "0")
        request.end_headers()

    with answering(redirect) as address, pytest.raises(DownloadError, match="is not allowed"):  # urllib's own
        fetch_url(address, tmp_path / "a.part", show_progress=False, settings=HASTY)
    assert not (tmp_path / "a.part").exists()


def test_a_damaged_archive_is_never_recorded_as_the_right_one(
    server: str,
    answers: Answers,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A checkpoint without a published hash is remembered as it first came; one whose own checksums fail must not be."""
    release = find_by_name("b0-vox2-ptn")
    good = corpus.checkpoint_bytes()
    damaged = bytearray(good)
    at = good.index(b"/data/0") + 300  # inside the first tensor
    damaged[at] ^= 1
    monkeypatch.setenv("MRL_MIRROR", server)
    answers.files = {release.file_name: bytes(damaged)}
    with pytest.raises((DownloadError, CheckpointError), match="the checksum of .* in it is not right"):
        fetch_checkpoint(release, progress=False)
    assert not record_path(release.file_name).exists()
    answers.files = {release.file_name: good}
    found = fetch_checkpoint(release, progress=False)
    assert found.path.read_bytes() == good and record_path(release.file_name).exists()

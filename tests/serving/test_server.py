"""A real server on 127.0.0.1: who is let in, how much it takes, and how it bears many at once."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import numpy as np
import pytest

from mrl.identification import VoiceStore
from mrl.serving import Limits
from mrl.serving.gate import SECURITY_HEADERS
from tests.serving.makers import AUTHORISED, application, embedder, recording, running

LIMITS = Limits(max_bytes=200_000, max_seconds=5, upload_seconds=0.5)
_BOUNDARY = "multipart/form-data; boundary=b"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = tmp_path_factory.mktemp("server") / "v.sqlite"
    with application(store, limits=LIMITS) as app, running(app) as place:
        data = {"name": "anna"}
        assert httpx.post(f"{place}/api/enrol", data=data, files={"files": recording(1)}, headers=AUTHORISED).status_code == 201
        yield place


def _raw(address: str, *parts: bytes, pause: float = 0.0) -> tuple[int, bytes]:
    """Send bytes as they are, and return status and body."""
    with socket.create_connection(("127.0.0.1", urlsplit(address).port or 0), timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.status, answer.read()


def _head(method: str = "POST", path: str = "/api/identify", **headers: str) -> bytes:
    given = {"Host": "127.0.0.1", **AUTHORISED, "Content-Type": _BOUNDARY, **{k.replace("_", "-"): v for k, v in headers.items()}}
    return "\r\n".join(
        [f"{method} {path} HTTP/1.1", *[f"{name}: {value}" for name, value in given.items() if value], "", ""]
    ).encode()


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer wrong", "Basic YTpi", f"Bearer {AUTHORISED['Authorization'][7:-1]}", "Bearer \xff"]
)
def test_nobody_without_the_token(authorization: str, address: str) -> None:
    for method, path in (
        ("GET", "/api/voices"),
        ("DELETE", "/api/voices/anna"),
        ("POST", "/api/enrol"),
        ("GET", "/api/x"),
        ("GET", "/x"),
    ):
        status, body = _raw(address, _head(method, path, Authorization=authorization).decode().encode("latin-1"))
        assert (status, body[:10]) == (401, b'{"error": ')
    assert httpx.get(f"{address}/api/voices").headers["WWW-Authenticate"] == "Bearer"
    assert httpx.get(f"{address}/api/voices", headers=AUTHORISED).json()["total"] == 1


@pytest.mark.parametrize(
    "path", ["//api/voices", "/api/../api/voices", "/api/health/../voices", "/page.js/../api/voices", "/%2e%2e/etc/passwd"]
)
def test_no_way_around_the_token(path: str, address: str) -> None:
    assert _raw(address, _head("GET", path, Authorization=""))[0] == 401
    assert _raw(address, _head("GET", path))[0] == 404  # nor is there anything behind such a path


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:80", 200),
        ("localhost", 200),
        ("LOCALHOST.", 200),
        ("[::1]:8000", 200),
        ("evil.example", 400),
        ("127.0.0.1.evil.example", 400),
        ("", 400),
    ],
)
def test_only_by_the_names_of_this_machine(host: str, status: int, address: str) -> None:
    found, body = _raw(address, _head("GET", "/", Host=host))
    assert found == status and (status == 200 or b"called by another name" in body or b"Host" in body or b"Invalid" in body)


def test_any_name_where_others_are_meant(tmp_path: Path) -> None:
    with application(tmp_path / "v.sqlite", hosts=None) as app, running(app) as place:
        assert _raw(place, _head("GET", "/api/voices", Host="voices.example"))[0] == 200
        assert _raw(place, _head("GET", "/api/voices", Host="voices.example", Authorization=""))[0] == 401


def test_security_headers_on_every_answer(address: str) -> None:
    for path, headers in (("/", {}), ("/api/voices", {}), ("/api/voices", AUTHORISED), ("/api/none", AUTHORISED), ("/docs", {})):
        answer = httpx.get(address + path, headers=headers)
        assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS
        assert "server" not in answer.headers
    assert "http" not in SECURITY_HEADERS["Content-Security-Policy"]


def test_bodies_of_the_wrong_kind(address: str) -> None:
    for kind in ("", "application/json", "application/x-www-form-urlencoded", "audio/wav", "multipart/mixed; boundary=b"):
        assert _raw(address, _head(Content_Type=kind, Content_Length="2"), b"{}")[0] == 415
    for kind in ("multipart/form-data", _BOUNDARY, f"{_BOUNDARY}; charset=unicode_escape", f"{_BOUNDARY}; charset=\xe4"):
        status, body = _raw(address, _head(Content_Type=kind, Content_Length="2"), b"{}")
        assert (status, b"error" in body) in {(400, True), (422, True)}


def test_bodies_that_are_too_large(address: str) -> None:
    large = b"x" * 400_000
    status, body = _raw(address, _head(Content_Length=str(10**12)))
    assert status == 413 and b"0.2 MB at most" in body
    assert _raw(address, _head(Content_Length=str(len(large))), large)[0] == 413
    chunks = [b"%x\r\n%s\r\n" % (1000, b"x" * 1000)] * 210  # its size is told nowhere
    start = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    status, body = _raw(address, _head(Transfer_Encoding="chunked"), b"%x\r\n%s\r\n" % (len(start), start), *chunks, b"0\r\n\r\n")
    assert status == 413 and b"0.2 MB at most" in body
    assert httpx.get(f"{address}/api/voices", headers=AUTHORISED).status_code == 200


def test_bodies_that_never_arrive(address: str) -> None:
    status, body = _raw(address, _head(Content_Length="1000"), b"--b\r\n")
    assert status == 408 and b"within 0.5 s" in body


def test_names_with_percent_signs_in_addresses(address: str) -> None:
    for name in ("a%2Fb", "50%", "x/../anna"):
        deleted = httpx.delete(f"{address}/api/voices/{quote(name, safe='')}", headers=AUTHORISED)
        assert deleted.status_code == 404 and httpx.get(f"{address}/api/voices", headers=AUTHORISED).json()["total"] == 1
    files = {"files": recording(2)}
    assert httpx.post(f"{address}/api/enrol", data={"name": "a%2Fb"}, files=files, headers=AUTHORISED).status_code == 201
    assert httpx.delete(f"{address}/api/voices/a%252Fb", headers=AUTHORISED).status_code == 204


def test_fifty_at_once_get_what_each_gets_alone(tmp_path: Path) -> None:
    store = tmp_path / "v.sqlite"
    with (
        application(store) as app,
        running(app) as place,
        httpx.Client(base_url=place, headers=AUTHORISED, timeout=120) as client,
    ):
        for seed in range(5):
            assert client.post("/api/enrol", data={"name": f"v{seed}"}, files={"files": recording(seed)}).status_code == 201

        def verify(seed: int) -> object:
            sent = recording(100 + seed, seconds=0.5 + 0.1 * (seed % 5))
            return client.post("/api/verify", data={"name": f"v{seed % 5}"}, files={"file": sent}).json()["scores"]

        def task(number: int) -> object:
            if number % 5 == 3:  # writers among the readers
                answer = client.post("/api/enrol", data={"name": f"new {number}"}, files={"files": recording(number)})
                assert answer.status_code == 201
                return client.delete(f"/api/voices/new {number}").status_code
            if number % 5 == 4:
                return client.post("/api/identify", files={"file": recording(number % 3)}).json()["candidates"][0]["name"]
            return verify(number)

        alone = {number: verify(number) for number in range(50) if number % 5 < 3}
        with ThreadPoolExecutor(50) as clients:
            together = dict(enumerate(clients.map(task, range(50))))
        for number, found in together.items():
            if number % 5 == 3:
                assert found == 204
            elif number % 5 == 4:
                assert found == f"v{number % 3}"
            else:
                assert found == alone[number]
    assert [voice.name for voice in VoiceStore(store).voices()] == [f"v{seed}" for seed in range(5)]


def test_one_too_many_is_told_to_come_back(tmp_path: Path) -> None:
    waiting, go, begun = embedder(), threading.Event(), threading.Semaphore(0)
    quick = waiting.raw

    def slow(waveforms: Sequence[np.ndarray]) -> np.ndarray:
        begun.release()
        assert go.wait(60)
        return quick(waveforms)

    limits = Limits(max_requests=3)
    waiting.raw = slow  # type: ignore[method-assign]
    with application(tmp_path / "v.sqlite", model=waiting, limits=limits, threads=1) as app, running(app) as place:

        def enrol(number: int) -> httpx.Response:
            data = {"name": f"v{number}"}
            return httpx.post(f"{place}/api/enrol", data=data, files={"files": recording(number)}, headers=AUTHORISED, timeout=60)

        with ThreadPoolExecutor(10) as clients:
            try:
                answers = [clients.submit(enrol, number) for number in range(10)]
                assert begun.acquire(timeout=60)
                while sum(answer.done() for answer in answers) < 7:  # three are inside: one listened to, two waiting
                    time.sleep(0.01)
                assert httpx.get(f"{place}/api/health").json() == {"status": "ok"}
            finally:
                go.set()
        found = [answer.result() for answer in answers]
        assert sorted(answer.status_code for answer in found) == [201] * 3 + [503] * 7
        assert all(int(answer.headers["Retry-After"]) > 0 for answer in found if answer.status_code == 503)
        assert enrol(11).status_code == 201  # and has room again

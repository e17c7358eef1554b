"""Connections that ask for nothing, a store that another process holds, and names that cannot be part of an address."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
import pytest

pytest.importorskip("uvicorn")

from mrl.identification import VoiceStore
from mrl.serving.connections import BoundedProtocol, ConnectionLimits
from tests.serving.makers import AUTHORISED, application, embedder, recording, running


def ask(address: str, path: str, *, method: str = "GET") -> tuple[int, object]:
    request = urllib.request.Request(f"{address}{path}", headers=AUTHORISED, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            data = answer.read()
            return answer.status, json.loads(data) if data else None
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@contextlib.contextmanager
def connections(address: str, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    place = urlsplit(address)
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            one = stack.enter_context(socket.create_connection((place.hostname, place.port), timeout=10))
            if sent:
                one.sendall(sent)
            opened.append(one)
        yield opened


def closed(one: socket.socket, seconds: float) -> bool:
    """Whether the server has ended a connection, waiting for it so long at most."""
    one.settimeout(seconds)
    try:
        return one.recv(1) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with application(tmp_path / "v.sqlite") as app, running(app) as address:
        yield address


@pytest.mark.parametrize("sent", [b"", b"GET /api/voices HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "])
def test_idle_and_half_sent_connections_keep_nobody_out(sent: bytes, server: str) -> None:
    with connections(server, 300, sent) as idle:
        start = time.monotonic()
        assert ask(server, "/api/voices")[0] == 200
        assert time.monotonic() - start < ConnectionLimits().head_seconds  # nobody had to wait for them to end
        open_ones = [one for one in idle if not closed(one, 0.0005)]
        assert len(open_ones) <= ConnectionLimits().per_client


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"])
def test_a_connection_that_asks_for_nothing_more_ends(sent: bytes, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedProtocol, "limits", ConnectionLimits(head_seconds=0.3))
    with connections(server, 1, sent) as (one,):
        received = b""
        one.settimeout(20)
        with contextlib.suppress(ConnectionError):
            while data := one.recv(4096):
                received += data
        assert (b"200 OK" in received) == sent.endswith(b"\r\n\r\n")


def test_a_head_that_trickles_in_ends_too(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedProtocol, "limits", ConnectionLimits(head_seconds=0.5))
    with connections(server, 1) as (one,), pytest.raises(ConnectionError):
        for _ in range(400):
            one.sendall(b"G")
            time.sleep(0.05)


def test_one_client_cannot_take_the_place_of_all(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BoundedProtocol, "limits", ConnectionLimits(total=4, per_client=100))
    with connections(server, 6) as opened:
        assert ask(server, "/api/health")[0] == 200
        assert sum(not closed(one, 0.05) for one in opened) <= 4


@pytest.mark.slow
def test_searches_go_on_while_a_deletion_waits_for_another_process(tmp_path: Path) -> None:
    path = tmp_path / "v.sqlite"
    with application(path, threads=1) as app, running(app) as address:
        model = embedder()
        store = VoiceStore(path)
        for name in ("anna", "ben"):
            store.add(name, np.random.default_rng(len(name)).standard_normal((1, 24)), [1.0], model_hash=model.model_hash)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        answers: list[tuple[int, object]] = []
        waiting = threading.Thread(target=lambda: answers.append(ask(address, "/api/voices/anna", method="DELETE")))
        waiting.start()
        time.sleep(0.5)
        try:
            for _ in range(3):
                status, found = ask(address, "/api/voices")
                assert status == 200 and found["total"] == 2  # type: ignore[index]
            assert waiting.is_alive() and not answers
        finally:
            other.execute("ROLLBACK")
            other.close()
            waiting.join()
        assert answers == [(204, None)]
        assert ask(address, "/api/voices")[1]["total"] == 1  # type: ignore[index]


@pytest.mark.parametrize("name", ["a/b", "..", "a?b#c", "/", "ä/ö"])
def test_every_voice_can_be_deleted(name: str, tmp_path: Path) -> None:
    testclient = pytest.importorskip("starlette.testclient")
    with application(tmp_path / "v.sqlite") as app:
        client = testclient.TestClient(app, base_url="http://127.0.0.1", headers=AUTHORISED)
        store = VoiceStore(tmp_path / "v.sqlite")
        store.add(name, np.ones((1, 24)), [1.0], model_hash=embedder().model_hash)
        assert client.delete(f"/api/voices?name={quote(name, safe='')}").status_code == 204
        assert len(store) == 0
        assert client.delete(f"/api/voices?name={quote(name, safe='')}").status_code == 404


def test_a_voice_with_a_slash_by_its_path(tmp_path: Path) -> None:
    testclient = pytest.importorskip("starlette.testclient")
    with application(tmp_path / "v.sqlite") as app:
        client = testclient.TestClient(app, base_url="http://127.0.0.1", headers=AUTHORISED)
        VoiceStore(tmp_path / "v.sqlite").add("a/b", np.ones((1, 24)), [1.0], model_hash=embedder().model_hash)
        assert client.delete("/api/voices/a%2Fb").status_code == 204


def test_enrolling_still_works_in_two_steps(tmp_path: Path) -> None:
    testclient = pytest.importorskip("starlette.testclient")
    with application(tmp_path / "v.sqlite") as app:
        client = testclient.TestClient(app, base_url="http://127.0.0.1", headers=AUTHORISED)
        answer = client.post("/api/enrol", data={"name": "anna"}, files={"files": recording(1)})
        assert answer.status_code == 201 and answer.json()["voice"]["name"] == "anna"
        assert client.post("/api/enrol", data={"name": "anna"}, files={"files": recording(2)}).status_code == 409

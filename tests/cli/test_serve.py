"""``mrl serve`` as a process of its own, from its first line to Ctrl+C."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from mrl.cli.main import run
from mrl.identification import VoiceStore
from tests.runtime.golden.record import EXPORTED
from tests.serving.makers import recording


def _start(store: Path, *options: str) -> tuple[subprocess.Popen[str], str]:
    """Start a server at any free port; return it and the address that it printed."""
    program = [sys.executable, "-m", "mrl", "serve", "--model", str(EXPORTED), "--store", str(store), "--port", "0", *options]
    server = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout is not None
    said = [server.stdout.readline() for _ in range(3)]
    assert said[0] == f"voices in {store}\n" and said[2] == "stop with Ctrl+C\n", server.communicate(timeout=60)
    return server, said[1].removeprefix("open ").strip()


def _stop(server: subprocess.Popen[str]) -> None:
    server.send_signal(signal.SIGINT)
    out, err = server.communicate(timeout=60)
    assert (server.returncode, out, err) == (0, "", "")


def test_a_server_with_a_token_of_its_own(tmp_path: Path) -> None:
    store = tmp_path / "v.sqlite"
    server, printed = _start(store, "--max-seconds", "2", "--max-megabytes", "0.1", "--threads", "1")
    try:
        found = re.fullmatch(r"(http://127\.0\.0\.1:\d+)/#token=([\w-]{32})", printed)
        assert found is not None
        headers = {"Authorization": f"Bearer {found[2]}"}
        with httpx.Client(base_url=found[1], headers=headers, timeout=60) as client:
            assert "<title>Voices</title>" in client.get("/").text
            assert client.get("/api/model").json()["limits"]["max_seconds"] == 2
            files = {"files": ("anna.wav", recording(1))}
            assert client.post("/api/enrol", data={"name": "anna"}, files=files).status_code == 201
            assert client.post("/api/identify", files={"file": recording(1, seconds=2.8)}).status_code == 413  # seconds
            assert client.post("/api/identify", files={"file": recording(1, seconds=6)}).status_code == 413  # bytes
            verified = client.post("/api/verify", data={"name": "anna"}, files={"file": recording(2)}).json()
            assert [one["dim"] for one in verified["scores"]] == [8, 16, 24]
            assert client.get("/api/voices", headers={"Authorization": "Bearer x"}).status_code == 401
    finally:
        _stop(server)
    assert [voice.name for voice in VoiceStore(store).voices()] == ["anna"]


def test_a_server_with_a_token_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-token-in-a-file\n")
    server, printed = _start(tmp_path / "v.sqlite", "--token-file", str(tmp_path / "token"))
    try:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", printed)  # the token is not shown
        assert httpx.get(f"{printed}api/voices", headers={"Authorization": "Bearer a-token-in-a-file"}).json()["total"] == 0
    finally:
        _stop(server)


def test_errors_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = str(tmp_path / "v.sqlite")
    for options, message in (
        (["--host", "0.0.0.0"], "others can reach 0.0.0.0: give a token"),
        (["--token", "short"], "a token has 16 to 500 printable ASCII characters"),
        (["--model", "none.onnx"], "none.onnx does not exist"),
    ):
        assert run(["serve", "--model", str(EXPORTED), "--store", store, "--port", "0", *options]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("mrl serve: error: ") and message in captured.err and captured.err.count("\n") == 1
        assert captured.out == ""

"""Before a server runs: token, address, packages."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from mrl.errors import DataError, InputError, MissingDependencyError
from mrl.serving import Limits, serve
from mrl.serving.gate import allowed_hosts, carries_token, checked_token, host_name, is_loopback, new_token, read_token
from tests.runtime.golden.record import EXPORTED


def test_tokens(tmp_path: Path) -> None:
    token = new_token()
    assert checked_token(token) == token and new_token() != token and len(token) == 32
    assert carries_token(f"Bearer {token}".encode(), token) and carries_token(f"bearer  {token} ".encode(), token)
    for wrong in (b"", token.encode(), f"Bearer {token}x".encode(), f"Basic {token}".encode(), b"Bearer \xff\xfe"):
        assert not carries_token(wrong, token)
    (tmp_path / "token").write_text(f"{token}\n")
    assert read_token(tmp_path / "token") == token
    (tmp_path / "binary").write_bytes(b"\xff" * 40)
    for file, message in (("none", "cannot be read"), ("binary", "a token has 16 to 500")):
        with pytest.raises(InputError, match=message):
            read_token(tmp_path / file)
    for bad in ("short", "has a space in it somewhere", "x" * 501, "ümlaut-ümlaut-ümlaut"):
        with pytest.raises(InputError, match="a token has 16 to 500 printable ASCII"):
            checked_token(bad)


def test_addresses() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost", "LOCALHOST"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""))
    assert allowed_hosts("127.0.0.9") == {"127.0.0.1", "localhost", "::1", "127.0.0.9"} and allowed_hosts("0.0.0.0") is None
    assert [host_name(text) for text in ("A.b:80", "[::1]:80", "[::1]", "x.", "", "[", ":80")] == [
        "a.b",
        "::1",
        "::1",
        "x",
        "",
        "",
        "",
    ]


def _serve(tmp_path: Path, **arguments: object) -> None:
    serve(EXPORTED, tmp_path / "v.sqlite", announce=lambda address: pytest.fail(f"started at {address}"), **arguments)  # type: ignore[arg-type]


def test_what_cannot_be_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="others can reach 0.0.0.0: give a token of your own"):
        _serve(tmp_path, host="0.0.0.0", port=0)
    with pytest.raises(InputError, match="not both"):
        _serve(tmp_path, token="x" * 20, token_file=tmp_path)
    with pytest.raises(InputError, match="threads must be"):
        _serve(tmp_path, threads=0)
    with pytest.raises(InputError, match=r"0\.\.65535"):
        _serve(tmp_path, port=70_000)
    with pytest.raises(InputError, match="cannot listen at 192.0.2.1"):
        _serve(tmp_path, host="192.0.2.1", port=0, token="x" * 20)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="Address already in use"):
            _serve(tmp_path, port=taken.getsockname()[1])
    (tmp_path / "v.sqlite").write_bytes(b"no store")
    with pytest.raises(DataError, match="no voice store"):
        _serve(tmp_path, port=0)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingDependencyError, match=r"pip install \"redimnet-mrl\[serve\]\""):
        _serve(tmp_path)


@pytest.mark.parametrize("name", ["max_bytes", "max_seconds", "max_files", "max_name", "max_requests", "upload_seconds"])
def test_limits(name: str) -> None:
    for value in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"{name} must be"):
            Limits(**{name: value})

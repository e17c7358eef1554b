"""Whatever is sent: an answer with a status of the documented ones, one line of JSON, no traceback, and a store as it was."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrl.serving import Limits
from tests.serving.makers import AUTHORISED, TOKEN, application, recording

testclient = pytest.importorskip("starlette.testclient")

# Starlette leaves the file of a part that never ends to the garbage collector, which closes it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <function SpooledTemporaryFile:pytest.PytestUnraisableExceptionWarning"
)

_EXPECTED = {200, 201, 204, 400, 401, 404, 405, 409, 413, 415, 422, 503}
_GOOD = [recording(1), recording(2, form="FLAC"), recording(3, form="OGG"), recording(4, form="MP3")]
_STARTS = [
    b"",
    b"RIFF\0\0\0\0WAVEfmt ",
    b"fLaC",
    b"OggS",
    b"ID3\x04\0\0\0\0\0\0\xff\xfb",
    b"\xff\xfb\x90",
    b"\0\0\0\x20ftypM4A ",
    b"\x1aE\xdf\xa3",
    b"FORM\0\0\0\0AIFF",
    b"caff",
]

_HEADER_NAMES = [
    "Content-Type",
    "Content-Length",
    "Transfer-Encoding",
    "Accept",
    "Range",
    "Host",
    "Authorization",
    "Expect",
    "Cookie",
    "X-Forwarded-For",
]
_FORM_KINDS = [
    "multipart/form-data; boundary=b",
    "multipart/form-data; boundary=b; charset=unicode_escape",
    "multipart/form-data; boundary=b; charset=nonsense",
    "multipart/form-data; boundary=",
    "multipart/form-data",
]
_FORM_LINES = [
    b"--b",
    b"--b--",
    b"\r\n",
    b'Content-Disposition: form-data; name="name"',
    b'Content-Disposition: form-data; name="name"\r\n\r\n\\ud800',
    b'Content-Disposition: form-data; name="file"; filename="x"',
    b'Content-Disposition: form-data; name="files"; filename="x"\r\n\r\n' + _GOOD[3],
    b"Content-Type: audio/wav",
]

_random_audio = st.builds(lambda start, rest: start + rest, st.sampled_from(_STARTS), st.binary(max_size=300))


@st.composite
def _damaged_audio(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(_GOOD)))
    for _ in range(draw(st.integers(0, 8))):
        data[draw(st.integers(0, min(len(data) - 1, 200)))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))])


_header = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
_paths = st.sampled_from(
    ["/", "/docs", "/api/voices", "/api/voices/x", "/api/enrol", "/api/verify", "/api/identify", "/api/model", "/api"]
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[testclient.TestClient]:
    store = tmp_path_factory.mktemp("fuzz") / "v.sqlite"
    with contextlib.ExitStack() as stack:
        app = stack.enter_context(application(store, limits=Limits(max_bytes=200_000, max_seconds=2)))
        # An error of the server's own would be raised here, instead of becoming a 500.
        found = testclient.TestClient(app, base_url="http://127.0.0.1", headers=AUTHORISED)
        assert found.post("/api/enrol", data={"name": "anna"}, files={"files": recording(1)}).status_code == 201
        yield found
        assert [voice["name"] for voice in found.get("/api/voices").json()["voices"]] == ["anna"]
        gc.collect()


def _check(answer: testclient.httpx.Response) -> None:
    assert answer.status_code in _EXPECTED
    if answer.status_code >= 400:
        assert list(answer.json()) == ["error"]
        message = answer.json()["error"]
        assert message and "\n" not in message and "Traceback" not in message and "v.sqlite" not in message


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=_random_audio | _damaged_audio(), filename=st.text(max_size=20), kind=_header)
def test_audio(data: bytes, filename: str, kind: str, client: testclient.TestClient) -> None:
    filename = filename.encode("utf-8", "replace").decode() or "x"
    _check(client.post("/api/verify", data={"name": "anna"}, files={"file": (filename, data, kind or "audio/wav")}))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(max_size=120).filter(lambda text: not any("\ud800" <= one <= "\udfff" for one in text)))
def test_names(name: str, client: testclient.TestClient) -> None:
    if name.strip() == "anna":
        return
    answer = client.post("/api/enrol", data={"name": name}, files={"files": _GOOD[0][:200]})  # never enrols: the file is cut off
    _check(answer)
    assert answer.status_code == 422
    _check(client.post("/api/verify", data={"name": name}, files={"file": _GOOD[0]}))
    _check(client.delete(f"/api/voices/{quote(name, safe='')}"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["GET", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "TRACE"]),
    path=_paths,
    headers=st.dictionaries(st.sampled_from(_HEADER_NAMES), _header, max_size=4),
    body=st.binary(max_size=200),
)
def test_requests(method: str, path: str, headers: dict[str, str], body: bytes, client: testclient.TestClient) -> None:
    answer = client.request(method, path, headers=headers, content=body)
    _check(answer)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(_FORM_KINDS),
    parts=st.lists(st.binary(max_size=60) | st.sampled_from(_FORM_LINES), max_size=14),
)
def test_forms(kind: str, parts: list[bytes], client: testclient.TestClient) -> None:
    for path in ("/api/verify", "/api/enrol"):
        answer = client.post(path, headers={"Content-Type": kind}, content=b"\r\n".join(parts))
        _check(answer)
        assert answer.status_code in {400, 404, 413, 415, 422}


def test_token_is_never_told(client: testclient.TestClient) -> None:
    for address in ("/", "/docs", "/openapi.json", "/api/model", "/api/health", "/page.js"):
        assert TOKEN not in client.get(address).text

"""The API: what it answers, and what it refuses with which status."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from mrl.embeddings import embed_recording
from mrl.errors import DataError
from mrl.identification import VoiceStore
from mrl.serving import Limits
from tests.serving.makers import AUTHORISED, application, embedder, recording

testclient = pytest.importorskip("starlette.testclient")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "v.sqlite"


@pytest.fixture
def client(store: Path) -> Iterator[testclient.TestClient]:
    with application(store, limits=Limits(max_bytes=300_000, max_seconds=3, max_files=3, max_name=40)) as app:
        yield testclient.TestClient(app, base_url="http://127.0.0.1", headers=AUTHORISED)


def enrol(client: testclient.TestClient, name: str, *recordings: bytes, add: bool = False) -> testclient.httpx.Response:
    files = [("files", ("x.wav", data)) for data in recordings]
    return client.post("/api/enrol", data={"name": name, "add": str(add).lower()}, files=files)


def test_the_life_of_a_voice(client: testclient.TestClient, store: Path) -> None:
    assert client.get("/api/voices").json() == {"total": 0, "voices": []}
    answer = enrol(client, " anna ", recording(1), recording(2, form="FLAC"))
    assert answer.status_code == 201
    assert answer.json()["voice"]["name"] == "anna" and answer.json()["voice"]["recordings"] == 2
    assert answer.json()["recordings"] == [{"seconds": 1.5, "speech_seconds": 1.5}] * 2 and answer.json()["warnings"] == []
    assert enrol(client, "bernd", recording(3)).status_code == 201
    assert enrol(client, "anna", recording(4), add=True).json()["voice"]["recordings"] == 3
    listed = client.get("/api/voices", params={"offset": 1, "limit": 1}).json()
    assert (listed["total"], [voice["name"] for voice in listed["voices"]]) == (2, ["bernd"])

    heard = embed_recording(embedder(), recording(5)).embedding
    verified = client.post("/api/verify", data={"name": "anna"}, files={"file": recording(5)}).json()
    for one, dim in zip(verified["scores"], (8, 16, 24), strict=True):
        prefix = heard[:dim] / (heard[:dim] @ heard[:dim]) ** 0.5
        assert one["dim"] == dim
        assert one["score"] == pytest.approx(float(VoiceStore(store).embedding("anna", dim) @ prefix), abs=1e-5)
        assert one["accepted"] is None and one["log_likelihood_ratio"] is None
    assert (verified["accepted"], verified["decided_at_dim"], verified["basis"]) == (None, None, "")

    identified = client.post("/api/identify", files={"file": recording(3)}, data={"top": "1"}).json()
    (best,) = identified["candidates"]
    assert best["name"] == "bernd" and best["score"] == pytest.approx(1.0, abs=1e-5)
    assert [one["dim"] for one in best["scores"]] == [8, 16, 24]
    assert all(one["score"] == pytest.approx(1.0, abs=1e-5) for one in best["scores"])
    assert (identified["decided"], identified["name"], identified["voices"]) == (False, None, 2)

    assert client.delete("/api/voices/bernd").status_code == 204
    assert client.delete("/api/voices/bernd").json() == {"error": "there is no voice 'bernd'"}
    assert [voice.name for voice in VoiceStore(store).voices()] == ["anna"]


def test_decisions_of_a_calibrated_model(store: Path) -> None:
    with application(store, model=embedder(calibrated=True)) as app:
        client = testclient.TestClient(app, base_url="http://localhost:8000", headers=AUTHORISED)
        assert client.get("/api/model").json()["calibrated_dims"] == [8, 24]
        assert enrol(client, "anna", recording(1)).status_code == 201
        verified = client.post("/api/verify", data={"name": "anna"}, files={"file": recording(1)}).json()
        assert [one["accepted"] for one in verified["scores"]] == [True, None, True]
        assert verified["scores"][2]["log_likelihood_ratio"] == pytest.approx(20.0 - 15.0, abs=1e-3)
        assert verified["scores"][2]["threshold"] == pytest.approx(2.944, abs=1e-3)  # log(0.95 / 0.05)
        assert (verified["accepted"], verified["decided_at_dim"], verified["basis"]) == (True, 24, "prior 0.05")
        identified = client.post("/api/identify", files={"file": recording(1)}).json()
        assert (identified["decided"], identified["name"]) == (True, "anna")
        assert enrol(client, "b", recording(2), recording(3)).status_code == 201
        identified = client.post("/api/identify", files={"file": recording(1)}).json()
        assert identified["threshold"] == pytest.approx(3.664, abs=1e-3) and "among 2 voices" in identified["basis"]


@pytest.mark.parametrize(
    "name", ["Zoë", "山田 太郎", "<b onclick=alert(1)>", "50% off", "a?b#c&d", "'; DROP TABLE voices; --", "x" * 40]
)
def test_names_are_data(name: str, client: testclient.TestClient) -> None:
    assert enrol(client, name, recording(1)).status_code == 201
    assert [voice["name"] for voice in client.get("/api/voices").json()["voices"]] == [name]
    verified = client.post("/api/verify", data={"name": name}, files={"file": recording(1)}).json()
    assert verified["scores"][-1]["score"] == pytest.approx(1.0, abs=1e-5)
    assert client.delete(f"/api/voices/{quote(name, safe='')}").status_code == 204
    assert client.get("/api/voices").json()["total"] == 0


@pytest.mark.parametrize("name", ["", "  ", "..", ".", "a/b", "../../etc/passwd", "a\\b", "a\nb", "a\0b", "x" * 41])
def test_names_that_no_address_can_carry(name: str, client: testclient.TestClient, store: Path) -> None:
    before = sorted(path.name for path in store.parent.rglob("*"))
    answer = enrol(client, name, recording(1))
    assert answer.status_code == 422 and "name" in answer.json()["error"]
    assert sorted(path.name for path in store.parent.rglob("*")) == before
    assert client.get("/api/voices").json()["total"] == 0


def test_refusals(client: testclient.TestClient) -> None:
    assert client.post("/api/identify", files={"file": recording(1)}).status_code == 409  # none is enrolled
    assert enrol(client, "anna", recording(1)).status_code == 201
    assert enrol(client, "anna", recording(2)).status_code == 409  # taken
    same = enrol(client, "anna", recording(1), add=True)
    assert same.status_code == 409 and "is part of voice 'anna' already" in same.json()["error"]
    assert enrol(client, "bernd", recording(2), add=True).status_code == 404
    assert client.post("/api/verify", data={"name": "bernd"}, files={"file": recording(1)}).status_code == 404
    assert enrol(client, "b", *[recording(seed) for seed in range(4)]).status_code == 413  # files
    second = enrol(client, "b", recording(2), recording(3, seconds=4.5, rate=8000))
    assert second.status_code == 413 and second.json()["error"].startswith("recording 2: a recording may last 3 s at most")
    broken = enrol(client, "b", recording(2)[:9000])
    assert broken.status_code == 422 and "cut off" in broken.json()["error"]
    text = enrol(client, "b", b"just text, no audio")
    assert text.status_code == 415 and text.json()["error"].startswith("recording 1: this is no recording in a known format")
    assert enrol(client, "b").status_code == 415  # nothing sent, and so no form of parts
    assert client.post("/api/enrol", files={"name": (None, "b")}).json() == {"error": "files: Field required"}
    short = enrol(client, "b", recording(1, seconds=0.001))
    assert short.status_code == 422 and short.json()["error"].startswith("recording 1: ")
    assert client.post("/api/identify", data={"top": "0"}, files={"file": recording(1)}).json()["error"].startswith("top: ")
    assert client.post("/api/verify", data={"name": "anna", "file": "text"}, files={"x": b""}).status_code == 422
    assert client.get("/api/voices?limit=0").status_code == 422
    assert client.get("/api/nothing").json() == {"error": "Not Found"}
    assert client.put("/api/enrol").status_code == 405
    assert client.get("/api/voices").json()["total"] == 1


def test_warning_of_little_speech(client: testclient.TestClient) -> None:
    (warning,) = enrol(client, "anna", recording(1, seconds=0.6)).json()["warnings"]
    assert warning == "0.60 s of speech in a recording of 0.60 s; below 1 s scores are uncertain"


def test_a_store_in_trouble(client: testclient.TestClient, store: Path) -> None:
    enrol(client, "anna", recording(1))
    with sqlite3.connect(store) as database:
        database.execute("DROP TABLE recordings")
    database.close()
    answer = client.get("/api/voices")
    assert answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0
    assert answer.json() == {"error": "the voice store cannot be used now, nothing was changed; the server's log says why"}
    store.unlink()
    gone = client.get("/api/voices")
    assert (
        gone.status_code == 409 and str(store) not in gone.text and gone.json()["error"].startswith("there is no voice store the")
    )


def test_a_store_of_another_model(store: Path) -> None:
    VoiceStore.open_or_create(store, embed_dim=24).add("x", [[1.0] * 24], [2.0], model_hash="b" * 64)
    with pytest.raises(DataError, match="enrolled with another model"), application(store):
        pass


def test_description_and_pages(client: testclient.TestClient) -> None:
    described = client.get("/openapi.json", headers={"Authorization": ""}).json()
    assert set(described["paths"]) == {
        "/api/health", "/api/model", "/api/voices", "/api/voices/{name}", "/api/enrol", "/api/verify", "/api/identify",
    }  # fmt: skip
    assert described["openapi"].startswith("3.")
    for address in ("/", "/docs", "/page.css", "/page.js"):
        answer = client.get(address, headers={"Authorization": ""})
        assert answer.status_code == 200
        assert "http://" not in answer.text and "https://" not in answer.text and ' src="//' not in answer.text
    docs = client.get("/docs").text
    for text in (
        "POST /api/enrol",
        "Recordings of one speaker; longer ones weigh more.",
        "log_likelihood_ratio",
        'href="#Verified"',
        'id="Verified"',
    ):
        assert text in docs
    assert client.get("/api/health", headers={"Authorization": ""}).json() == {"status": "ok"}
    model = client.get("/api/model").json()
    assert (model["name"], model["embed_dim"], model["dims"], model["calibrated_dims"]) == ("tiny.onnx", 24, [8, 16, 24], [])
    assert model["limits"] == {"max_bytes": 300_000, "max_seconds": 3.0, "max_files": 3, "max_name": 40}

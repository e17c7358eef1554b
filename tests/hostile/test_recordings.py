"""One malformed recording among good ones: every job over many files reports it and does the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mrl.audio import audio_info, load_audio
from mrl.audio.decoded import LIMITS
from mrl.cli.main import run
from mrl.embeddings import load_embeddings, map_files
from mrl.errors import AudioLoadingError
from tests.hostile import corpus
from tests.hostile.limits import attempt, bounded_memory

HOSTILE = corpus.hostile_recordings()


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder with every hostile recording and two good ones."""
    folder = tmp_path / "mixed"
    for name, data in HOSTILE.items():
        (folder / "spk1").mkdir(parents=True, exist_ok=True)
        (folder / "spk1" / name).write_bytes(data)
    (folder / "spk2").mkdir()
    for number in range(2):
        (folder / "spk2" / f"good{number}.flac").write_bytes(corpus.recording(number))
    return folder


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_a_hostile_recording_is_refused_or_read_within_bounds(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(HOSTILE[name])
    with bounded_memory():
        for read in (load_audio, audio_info):
            outcome = attempt(lambda read=read: read(file))
            assert outcome.allowed, outcome
            assert outcome.megabytes < 500
            if outcome.kind != "result":
                assert outcome.kind == "mrl.errors.AudioLoadingError"
                assert str(file) in outcome.said


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (corpus.wav(rate=1, data=bytes(range(256)) * 4000), "a sample rate of 1 Hz; rates from 100 to 1,000,000 Hz are read"),
        (corpus.wav(rate=2_000_000), "a sample rate of 2,000,000 Hz"),
        (corpus.wav(channels=1000, data=bytes(range(200)) * 1000), "1,000 channels; 1 to 256 are read"),
        (corpus.silent_flac(200 * 3600, rate=8000), "200 hours long; at most 48 hours are read"),
        (corpus.silent_flac(47 * 3600, rate=16000), r"10,828,800,000 bytes when decoded; at most 8,589,934,592 are read at once"),
    ],
)
def test_bounds_have_names_and_numbers(data: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(data)
    with pytest.raises(AudioLoadingError, match=message):
        load_audio(file)
    assert (LIMITS.lowest_rate, LIMITS.highest_rate, LIMITS.channels) == (100, 1_000_000, 256)


def test_a_part_of_a_very_long_recording_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "a.flac"
    file.write_bytes(corpus.silent_flac(47 * 3600, rate=16000))
    assert audio_info(file).seconds == 47 * 3600
    assert len(load_audio(file, duration=2.0, allow_silence=True)) == 32000


def test_any_exception_of_a_decoder_is_one_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.flac"
    file.write_bytes(corpus.recording(0))
    for error in (
        RuntimeError("burst"),
        KeyError("x"),
        AssertionError(),
        MemoryError(),
        UnicodeDecodeError("a", b"b", 0, 1, "c"),
    ):

        def broken(*_: object, error: Exception = error) -> None:
            raise error

        for module in ("soundfile_decoder", "ffmpeg_decoder"):
            monkeypatch.setattr(f"mrl.audio.{module}.decode", broken)
            monkeypatch.setattr(f"mrl.audio.{module}.info", broken)
        for read in (load_audio, audio_info):
            with pytest.raises(
                AudioLoadingError, match="not enough memory" if isinstance(error, MemoryError) else type(error).__name__
            ):
                read(file)


def test_embedding_a_folder(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = corpus.write_model(tmp_path / "model")
    assert run(["embed", str(mixed), "--model", str(model), "--output", str(tmp_path / "e.npz"), "--num-workers", "0"]) == 1
    told = capsys.readouterr().err
    assert "Traceback" not in told
    ids = load_embeddings(tmp_path / "e.npz").ids
    assert {Path(name).name for name in ids} >= {"good0.flac", "good1.flac"}
    for name in ("rf64-of-20-bytes.wav", "pcm-64.wav", "bits-0.wav", "tag-ffff.wav", "rate-1.wav"):
        assert name in told


def test_verifying(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = corpus.write_model(tmp_path / "model")
    for name in ("rf64-of-20-bytes.wav", "pcm-64.wav", "bits-33.wav", "rate-1.wav"):
        assert run(["verify", str(mixed / "spk1" / name), str(mixed / "spk2" / "good0.flac"), "--model", str(model)]) == 2
        printed = capsys.readouterr().err
        (line,) = [line for line in printed.splitlines() if "error" in line]
        assert line.startswith("mrl verify: error: ") and name in line and "Traceback" not in printed


def test_preparing_a_corpus(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "prepare", str(mixed), "--output", str(tmp_path / "m.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert {Path(row["path"]).name for row in rows} >= {"good0.flac", "good1.flac"}
    report = (tmp_path / "m.faults.tsv").read_text()
    for name in ("rf64-of-20-bytes.wav", "pcm-64.wav", "bits-0.wav", "tag-ffff.wav"):
        assert name in report


def test_serving(tmp_path: Path) -> None:
    testclient = pytest.importorskip("starlette.testclient")
    from tests.serving.makers import AUTHORISED, application

    with application(tmp_path / "v.sqlite") as app:
        client = testclient.TestClient(app, base_url="http://127.0.0.1", headers=AUTHORISED)
        for name, data in HOSTILE.items():
            answer = client.post("/api/identify", files={"file": (name, data)})
            assert answer.status_code in (409, 413, 415, 422), name
            answer = client.post("/api/enrol", data={"name": "a"}, files={"files": (name, data)})
            assert answer.status_code in (201, 413, 415, 422), name
            if answer.status_code == 201:
                assert client.delete("/api/voices/a").status_code == 204


@pytest.fixture
def two_files(tmp_path: Path) -> Iterator[list[Path]]:
    for number in range(3):
        (tmp_path / f"{number}.flac").write_bytes(corpus.recording(number))
    yield [tmp_path / f"{number}.flac" for number in range(3)]


def test_whatever_one_recording_does_the_others_are_mapped(two_files: list[Path]) -> None:
    def change(index: int, waveform: np.ndarray) -> np.ndarray:
        if index == 1:
            raise ZeroDivisionError("of its own")
        return waveform

    mapped = map_files(lambda batch: np.ones((len(batch), 2), np.float32), two_files, change=change, show_progress=False)
    assert mapped.kept == (0, 2)
    assert mapped.failures[0].reason == "ZeroDivisionError: of its own"


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried")]
)
def test_a_recording_too_large_for_the_memory_is_left_out(error: Exception, two_files: list[Path]) -> None:
    def function(batch: list[np.ndarray]) -> np.ndarray:
        if any(len(waveform) == len(load_audio(two_files[1])) for waveform in batch):
            raise error
        return np.ones((len(batch), 2), np.float32)

    mapped = map_files(function, two_files, show_progress=False)
    assert mapped.kept == (0, 2)
    assert "not enough memory" in mapped.failures[0].reason


def test_an_error_of_the_function_itself_is_not_hidden(two_files: list[Path]) -> None:
    def function(batch: list[np.ndarray]) -> np.ndarray:
        raise RuntimeError("a mistake in the network")

    with pytest.raises(RuntimeError, match="a mistake"):
        map_files(function, two_files, show_progress=False)

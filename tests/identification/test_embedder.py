"""Embedding for the store: unit length, warnings, and what a model must not give."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mrl.audio import load_audio
from mrl.audio.speech import find_speech
from mrl.embeddings import embed_files, embed_recording, open_embedder, open_model, weights_sha256
from mrl.errors import AudioLoadingError, CheckpointError, DataError, InputError
from mrl.identification import VoiceStore, enrol, identify, verify_voice, voice_score
from tests.embeddings.fakes import FunctionEmbedder
from tests.embeddings.tiny import write_models, write_voices
from tests.runtime.golden.record import EXPORTED, golden_model


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedder")
    write_models(folder)
    write_voices(folder / "voices")
    return folder


def _file(place: Path) -> Path:
    return sorted((place / "voices").rglob("*.flac"))[0]


@pytest.mark.parametrize("model", ["tiny.pt", "tiny-mrl"])
def test_the_same_embedding_as_everywhere(model: str, place: Path, caplog: pytest.LogCaptureFixture) -> None:
    embedder = open_embedder(place / model)
    network = open_model(place / model)
    expected = embed_files(network, [_file(place)]).matrix[0]
    with caplog.at_level(logging.WARNING, logger="mrl"):
        found = embed_recording(embedder, _file(place))
    assert found.embedding == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5)
    assert np.linalg.norm(found.embedding) == pytest.approx(1.0, abs=1e-6)
    assert found.seconds == pytest.approx(soundfile.info(_file(place)).duration, abs=1e-3)
    assert (embedder.embed_dim, embedder.model_hash) == (network.embed_dim, weights_sha256(network))
    assert (embedder.calibration, embedder.calibration_hash) == (None, "")
    assert "s of speech; below 1 s scores are uncertain" in caplog.text


def test_speech_is_what_is_not_quiet() -> None:
    random = np.random.default_rng(0)
    loud = (0.3 * random.standard_normal(32_000)).astype(np.float32)
    quiet = (0.001 * random.standard_normal(48_000)).astype(np.float32)
    assert find_speech([quiet, loud, quiet], "none").speech_seconds == pytest.approx(2.0, abs=0.05)
    assert find_speech([loud], "none").speech_seconds == pytest.approx(2.0, abs=0.03)
    assert find_speech([np.zeros(16_000, dtype=np.float32)], "none").speech_seconds == 0.0
    assert find_speech([loud[:100]], "none").speech_seconds == pytest.approx(100 / 16_000)


def test_silence_and_nan_are_refused(place: Path, tmp_path: Path) -> None:
    embedder = open_embedder(place / "tiny-mrl")
    soundfile.write(tmp_path / "silent.wav", np.zeros(32_000), 16_000)
    store = tmp_path / "v.sqlite"
    with pytest.raises(AudioLoadingError, match="digital silence"):
        enrol(embedder, "x", [_file(place), tmp_path / "silent.wav"], store)
    for value in (np.nan, 0.0):
        broken = FunctionEmbedder("broken", 256, lambda waveform, value=value: np.full(256, value, dtype=np.float32))
        with pytest.raises(CheckpointError, match="broken gave NaN, infinity or only zeros"):
            enrol(broken, "x", [_file(place)], store)
    assert not store.exists()
    with pytest.raises(InputError, match="one recording or more"):
        enrol(embedder, "x", [], store)
    with pytest.raises(DataError, match="given twice"):
        enrol(embedder, "x", [_file(place), _file(place)], store)
    assert len(VoiceStore(store)) == 0
    with pytest.raises(InputError, match="weights are for"):
        open_embedder("model.onnx", weights="x")
    with pytest.raises(InputError, match="runs on the CPU"):
        open_embedder("model.onnx", device="cuda")


def test_an_exported_model_is_the_same_model(place: Path, tmp_path: Path) -> None:
    """Voices enrolled with a network are found with its ONNX file, in a process without torch."""
    pytest.importorskip("onnxruntime")
    golden_model().save_pretrained(tmp_path / "model")
    store = tmp_path / "v.sqlite"
    files = sorted((place / "voices").rglob("*.flac"))[::3]
    for number, file in enumerate(files):
        enrol(open_embedder(tmp_path / "model"), f"v{number}", [file], store)
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from mrl.embeddings import open_embedder\n"
        "from mrl.identification import VoiceStore, identify\n"
        "found = identify(open_embedder(sys.argv[1]), sys.argv[2], VoiceStore(sys.argv[3]))\n"
        "print(found.candidates[0].name, found.candidates[0].score)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(EXPORTED), str(files[4]), str(store)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    name, score = done.stdout.split()
    assert name == "v4" and float(score) > 0.9999


def test_embedded_already(place: Path, tmp_path: Path) -> None:
    """What was made of a waveform is taken wherever a recording is, and its file is not read again."""
    embedder = open_embedder(EXPORTED, threads=1)
    assert embedder.mrl_dims == (8, 16, 24)
    file = _file(place)
    heard = embed_recording(embedder, load_audio(file))
    assert np.array_equal(heard.embedding, embed_recording(embedder, file).embedding)
    voice = enrol(embedder, "x", [heard], tmp_path / "v.sqlite")
    assert voice.seconds == pytest.approx(heard.seconds)
    store = VoiceStore(tmp_path / "v.sqlite")
    assert identify(embedder, heard, store) == identify(embedder, file, store)
    for dim in (8, 24):
        score = voice_score(store, "x", heard, dim)
        assert score == verify_voice(embedder, "x", file, store, dim=dim).score == pytest.approx(1.0, abs=1e-6)

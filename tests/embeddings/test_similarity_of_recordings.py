"""The first contact: one door to every kind of model, and an answer about two recordings from the model of the package."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import mrl
from mrl.audio import load_audio
from mrl.embeddings import as_embedder, open_embedder
from mrl.errors import AudioLoadingError, InputError
from mrl.scoring.calibration import Calibration, DimCalibration
from tests.embeddings.tiny import write_models, write_voices


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("voices")
    write_voices(folder)
    return sorted(folder.rglob("*.flac"))


@pytest.fixture(scope="module")
def model() -> mrl.Embedder:
    return mrl.load_model()


def test_a_score_without_naming_anything(model: mrl.Embedder, voices: list[Path]) -> None:
    network = mrl.ReDimNetMRL.from_pretrained("mrl-b0-demo")
    result = model.similarity(voices[0], voices[4])
    expected = network(voices[0]).numpy() @ network(voices[4]).numpy()  # without detaching: no gradient in evaluation mode
    assert float(result) == result.score == pytest.approx(expected, abs=1e-5)


def test_a_calibrated_model_gives_probability_and_decision(model: mrl.Embedder, voices: list[Path]) -> None:
    first, second = voices[0], voices[4]
    fitted = DimCalibration(256, 8.0, -4.0, 0.0, 0.0, 1.0, 0.5, None, 0.5, 1.0, 1.0, ())
    result = model.with_calibration(Calibration({256: fitted}, "none", 0.5, None, {})).similarity(first, second)
    assert result.log_likelihood_ratio == pytest.approx(8.0 * result.score - 4.0)
    assert result.log_likelihood_ratio is not None and result.prior == 0.5
    assert result.probability == pytest.approx(1 / (1 + math.exp(-result.log_likelihood_ratio)), rel=1e-9)
    assert result.same_speaker is (result.probability > 0.5)
    assert (
        str(result) == f"score {result.score:.4f} (cosine), probability {result.probability:.1%} at prior 0.5: {result.decision}"
    )
    rare = model.with_calibration(Calibration({256: fitted}, "none", 0.5, None, {})).similarity(first, second, prior=0.01)
    odds = math.exp(result.log_likelihood_ratio) * 0.01 / 0.99
    assert rare.probability == pytest.approx(odds / (1 + odds)) and rare.prior == 0.01


def test_files_bytes_and_waveforms_are_the_same(model: mrl.Embedder, voices: list[Path]) -> None:
    by_file = model.similarity(voices[0], voices[1], dim=64)
    waveform = load_audio(voices[1])
    assert model.similarity(voices[0].read_bytes(), waveform, dim=64).score == pytest.approx(by_file.score, abs=1e-6)
    assert model.similarity(voices[0], voices[0]).score == pytest.approx(1.0, abs=1e-6)


def test_one_door(tmp_path: Path, voices: list[Path]) -> None:
    checkpoint, folder = write_models(tmp_path)
    for spec in (checkpoint, folder):
        loaded = mrl.load_model(spec)
        assert loaded.model_hash == open_embedder(spec).model_hash
        result = loaded.similarity(voices[0], voices[1])
        assert result.probability is result.log_likelihood_ratio is result.same_speaker is None
        assert str(result) == f"score {result.score:.4f} (cosine): no decision" and "no calibration" in result.rule.absence
        assert loaded.similarity(voices[0], voices[1], threshold=-1.0).same_speaker is True
    with pytest.raises(InputError, match="no released checkpoint is called 'nothing'"):
        mrl.load_model("nothing")


def test_unusable_recordings_are_named_together(model: mrl.Embedder, voices: list[Path], tmp_path: Path) -> None:
    with pytest.raises(AudioLoadingError, match=r"(?s)2 of 2.*absent\.wav.*second recording"):
        model.similarity(tmp_path / "absent.wav", b"no audio")
    with pytest.raises(InputError, match="1..256"):
        model.similarity(voices[0], voices[1], dim=257)


def test_gradients_are_kept_where_they_are_wanted(voices: list[Path]) -> None:
    network = mrl.ReDimNetMRL.from_pretrained("mrl-b0-demo")
    waveform = torch.from_numpy(np.ascontiguousarray(load_audio(voices[0])[:8000]))
    for module in (network, network.backbone):
        for recording in (voices[0], waveform.numpy()):  # results are NumPy arrays in one step
            assert module(recording).numpy().dtype == np.float32
        assert module(waveform).requires_grad and module([waveform]).requires_grad
        assert module.train()(waveform.expand(2, -1)).requires_grad
        module.eval()
    assert as_embedder(network).raw([waveform.numpy()]).dtype == np.float32


def test_loading_does_not_import_the_compiler() -> None:
    """Which takes seconds."""
    code = "import mrl, sys; mrl.load_model(); print(any(name in sys.modules for name in ('torch._dynamo', 'sympy')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

"""Enrolling and identifying: the best by log-likelihood ratio wherever it ranks by cosine, and refusals before the work."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from mrl.embeddings import EmbeddedRecording, Embedder
from mrl.errors import DataError, InputError
from mrl.identification import VoiceStore, enrol, identify
from mrl.identification.database import StoredRecording, StoredVoice
from mrl.scoring.calibration import Calibration, DimCalibration
from tests.embeddings.fakes import FunctionEmbedder
from tests.identification.makers import MODEL, speakers, unit

_DIM = 8


def _embedder(calibration: Calibration | None = None) -> Embedder:
    def never(waveform: np.ndarray) -> np.ndarray:
        raise AssertionError("a recording was embedded")

    made = FunctionEmbedder("fake", _DIM, never, model_hash=MODEL)
    return made if calibration is None else made.with_calibration(calibration)


def _calibration(score: float, shorter: float, difference: float) -> Calibration:
    one = DimCalibration(_DIM, score, -3.0, shorter, difference, 1.0, 0.2, None, 0.1, 0.2, 0.1, ())
    return Calibration({_DIM: one}, "duration", 0.5, (1.0, 30.0), {}, "")


@pytest.mark.parametrize("top", [1, 5])
@pytest.mark.parametrize(
    ("score", "shorter", "difference"), [(6.0, 1.5, 0.0), (6.0, 0.0, -1.0), (40.0, 0.1, 0.1), (-2.0, 1.0, 0.0)]
)
def test_the_best_ratio_is_found_however_it_ranks_by_cosine(
    score: float, shorter: float, difference: float, top: int, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    query = speakers(1, _DIM, 3)[0]
    rows = unit(query + 0.6 * random.standard_normal((300, _DIM)).astype(np.float32))
    seconds = np.where(np.argsort(np.argsort(-(rows @ query))) < 150, 1.5, 25.0)  # the most alike by cosine are short
    store = VoiceStore.open_or_create(tmp_path / "v.sqlite", embed_dim=_DIM)
    recordings = [StoredRecording(float(length), row.tobytes()) for row, length in zip(rows, seconds, strict=True)]
    store.add_voices([StoredVoice(f"v{number}", MODEL, "", "", "", (one,)) for number, one in enumerate(recordings)])
    calibration = _calibration(score, shorter, difference)
    heard = EmbeddedRecording(query, 20.0, 20.0)
    found = identify(_embedder(calibration), heard, store, top=top)
    ratios = calibration.log_likelihood_ratios(_DIM, rows @ query, seconds, np.full(300, 20.0))
    expected = np.argsort(-ratios, kind="stable")[:top]
    assert [one.name for one in found.candidates] == [f"v{number}" for number in expected]
    assert [one.log_likelihood_ratio for one in found.candidates] == pytest.approx(ratios[expected].tolist(), abs=1e-4)
    assert found.rule.threshold == pytest.approx(-math.log(0.5 / 300 / (1 - 0.5 / 300)))


def test_what_cannot_be_enrolled_is_refused_before_recordings_are_opened(tmp_path: Path) -> None:
    store, embedder = tmp_path / "v.sqlite", _embedder()
    missing = [tmp_path / "there-is-no-such.wav"]
    for name, extend, error in (("a\nb", False, InputError), ("", False, InputError), ("anna", True, DataError)):
        with pytest.raises(error, match="voice"):
            enrol(embedder, name, missing, store, extend=extend)
    assert not store.exists()
    VoiceStore.open_or_create(store, embed_dim=_DIM).add("anna", speakers(1, _DIM), [1.0], model_hash=MODEL)
    with pytest.raises(DataError, match="'anna' is enrolled in .* already"):
        enrol(embedder, " anna ", missing, store)
    with pytest.raises(DataError, match="there is no voice 'bert'"):
        enrol(embedder, "bert", missing, store, extend=True)
    with pytest.raises(DataError, match="keeps embeddings as float32, not int8"):
        enrol(embedder, "bert", missing, store, form="int8")
    other = FunctionEmbedder("other", _DIM, lambda waveform: waveform, model_hash="b" * 64)
    with pytest.raises(DataError, match="enrolled with another model"):
        enrol(other, "bert", missing, store)

"""The checks themselves: they must notice what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mrl.deployment import check_export, open_runner
from mrl.deployment.checks import (
    ParityPoint,
    Reference,
    TrialParity,
    calibration_waveforms,
    check_parity,
    compare_on_trials,
    require_cosine,
    require_same_rates,
    row_cosines,
    synthetic_speech,
)
from mrl.deployment.comparison import _verdict
from mrl.deployment.formats import Outputs
from mrl.deployment.onnx_graph import MINIMUM_COSINE, PRECISIONS, precisions_of
from mrl.errors import CheckpointError, ExportError, InputError
from mrl.files import sha256_of
from mrl.matryoshka import ReDimNetMRL
from mrl.trials.lists import TrialList
from tests.runtime.golden.record import EXPORTED


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    for file in EXPORTED.parent.glob("tiny.onnx*"):
        shutil.copy(file, tmp_path)
    return tmp_path / EXPORTED.name


def test_the_golden_file_is_good(copied: Path) -> None:
    checked = check_export(copied)
    assert checked.cosine > 0.9999999 and checked.precision == "fp32"


def test_what_a_self_test_notices(copied: Path) -> None:
    card, pairs = copied.with_name("tiny.onnx.json"), copied.with_name("tiny.onnx.check.safetensors")
    whole = pairs.read_bytes()
    tensors = load_file(pairs)
    rng = np.random.default_rng(0)
    for name in ("expected_0", "expected_1"):
        save_file({**tensors, name: tensors[name] + 0.1 * rng.standard_normal((1, 24)).astype(np.float32)}, pairs)
        with pytest.raises(ExportError, match="gives other embeddings than when it was written: cosine 0.9"):
            check_export(copied)
    save_file({**tensors, "expected_0": np.full((1, 24), np.nan, np.float32)}, pairs)
    with pytest.raises(CheckpointError, match="'expected_0' holds NaN"):
        check_export(copied)
    save_file({**tensors, "expected_0": tensors["expected_0"][:, :8].copy()}, pairs)
    with pytest.raises(ExportError, match=r"gives \(1, 24\); its self-test expects \(1, 8\)"):
        check_export(copied)
    pairs.write_bytes(whole[:900])
    with pytest.raises(CheckpointError, match="check.safetensors is damaged"):
        check_export(copied)
    pairs.unlink()
    with pytest.raises(CheckpointError, match="check.safetensors is missing"):
        check_export(copied)
    card.write_text("{")
    with pytest.raises(CheckpointError, match="tiny.onnx.json is not JSON"):
        check_export(copied)
    card.unlink()
    with pytest.raises(CheckpointError, match="tiny.onnx.json is missing"):
        check_export(copied)
    copied.unlink()
    with pytest.raises(InputError, match="does not exist"):
        check_export(copied)


def test_another_file_under_the_same_name(copied: Path) -> None:
    copied.write_bytes(copied.read_bytes() + b"\x00")
    with pytest.raises(CheckpointError, match=r"tiny.onnx is not the file that tiny.onnx.json beside it describes"):
        check_export(copied)
    card = copied.with_name("tiny.onnx.json")
    values = json.loads(card.read_text())
    card.write_text(json.dumps({**values, "files": {".onnx": sha256_of(copied)}}))
    with pytest.raises(CheckpointError, match="damaged or not an ONNX model"):
        check_export(copied)


class _Faulty:
    """The golden file with a fault."""

    def __init__(self, fault: str) -> None:
        self._runner = open_runner(EXPORTED, threads=1)
        self.description = self._runner.description
        self._fault = fault

    def __call__(self, batch: np.ndarray) -> Outputs:
        found = self._runner(batch)
        if self._fault == "fails on batches":
            if len(batch) > 1:
                raise RuntimeError("axis 0\nis fixed")
            return found
        if self._fault == "is not of unit length":
            return Outputs(2 * found.embedding, found.raw)
        if self._fault == "mixes up a batch":
            return Outputs(found.embedding[::-1], found.raw[::-1])
        if self._fault == "gives NaN":
            return Outputs(found.embedding, np.full_like(found.raw, np.nan))
        return Outputs(found.embedding[:, :8], found.raw[:, :8])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("fails on batches", r"fails on a batch of 2 x 0.3 s: axis 0 is fixed"),
        ("is not of unit length", "lengths around 2 on a batch of 1 x 0.3 s"),
        ("mixes up a batch", "differs from the network in 1 of 2 comparisons.* on a batch of 2 x 0.3 s, at least 0.99999"),
        ("gives NaN", "differs from the network in 2 of 2 comparisons: cosine nan"),
        ("is cut", r"gives \(1, 8\) .* expected \(1, 24\)"),
    ],
)
def test_faults_are_found(fault: str, message: str, model: ReDimNetMRL) -> None:
    with pytest.raises(ExportError, match=message):
        points = check_parity(Reference(model, "waveform"), _Faulty(fault), shapes=((1, 0.3), (2, 0.3)))
        require_cosine(points, MINIMUM_COSINE["fp32"])


def test_a_cosine_at_the_limit_is_accepted() -> None:
    require_cosine([ParityPoint(1, 1.0, 0.99999)], 0.99999)
    with pytest.raises(ExportError):
        require_cosine([ParityPoint(1, 1.0, 0.999989)], 0.99999)


def test_error_rates_must_be_the_same() -> None:
    rng = np.random.default_rng(0)
    speakers = np.repeat(np.arange(10), 4)
    matrix = (rng.standard_normal((10, 12))[speakers] + 0.9 * rng.standard_normal((40, 12))).astype(np.float32)
    pairs = [(bool(speakers[i] == speakers[j]), f"{i}", f"{j}") for i in range(40) for j in range(i)]
    trials = TrialList.from_pairs(pairs)
    ordered = matrix[[int(name) for name in trials.utterances]]
    same = compare_on_trials(ordered, ordered, trials, (4, 12))
    assert same.network == same.exported and same.largest_change() == 0.0
    require_same_rates(same)
    worse = compare_on_trials(ordered, ordered + rng.standard_normal(ordered.shape).astype(np.float32), trials, (4, 12))
    assert worse.largest_change() > 0.02
    with pytest.raises(ExportError, match="% at dim 4, the network .* they must be the same"):
        require_same_rates(worse)


def test_which_forms_are_worth_keeping() -> None:
    rates = TrialParity("list", 10, {8: 0.05, 16: 0.02}, {8: 0.0501, 16: 0.0249})
    assert _verdict("fp16", 0.6, 1.0, 0.99999, None) == (True, "60 % of the size")
    assert _verdict("int8-static", 0.5, 1.5, 0.99, None) == (True, "1.50 times as fast and 50 % of the size")
    assert _verdict("int8-dynamic", 0.5, 0.5, 0.99, None) == (True, "50 % of the size, but takes 2.00 times as long")
    assert _verdict("fp16", 0.9, 1.05, 0.99999, None) == (False, "neither faster nor smaller than ONNX fp32")
    assert _verdict("int8-dynamic", 0.5, 1.5, 0.97, None) == (False, "cosine 0.9700 is below 0.98")
    assert _verdict("int8-dynamic", 0.5, 1.5, float("nan"), None)[0] is False
    assert _verdict("int8-dynamic", 0.5, 1.5, 0.99, rates) == (False, "the equal error rate rises by 0.49 points at dim 16")


def test_speech_of_the_checks() -> None:
    speech = synthetic_speech(2, 14.0)
    assert speech.shape == (2, 224000) and speech.dtype == np.float32
    np.testing.assert_array_equal(speech * 2**15, np.round(speech * 2**15))
    np.testing.assert_array_equal(speech[:, :16000], synthetic_speech(2, 14.0)[:, :16000])
    assert abs(float(row_cosines(speech[:1], speech[1:])[0])) < 0.2


def test_calibration_audio_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"x")
    with pytest.raises(InputError, match="is a file; give a folder"):
        calibration_waveforms(tmp_path / "a.wav", 33)


def test_precisions() -> None:
    assert precisions_of("onnx") == PRECISIONS == tuple(MINIMUM_COSINE)
    assert precisions_of("pt2") == ("fp32",)

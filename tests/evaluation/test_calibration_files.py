"""A calibration in a model folder, and decisions with it, for a real tiny network."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrl.audio import audio_info
from mrl.embeddings import embed_files, open_embedder, open_model, score_files
from mrl.embeddings.calibrated import CALIBRATION, load_calibration
from mrl.errors import CheckpointError, DataError, InputError
from mrl.evaluation.calibrating import calibrate_model
from mrl.identification import Verification
from mrl.identification import verify_files as verify_embedded_files
from mrl.matryoshka import ReDimNetMRL
from mrl.scoring import fit_calibration, score_prefixes
from mrl.trials import TrialList
from tests.embeddings.fakes import all_pairs
from tests.embeddings.tiny import write_models, write_voices


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    write_models(folder)
    write_voices(folder / "voices")
    calibrate_model(folder / "tiny-mrl", trials_of(folder), folder / "voices", dims=(16, 64), false_accept_rates=[0.1])
    return folder


def trials_of(place: Path) -> TrialList:
    names = sorted(str(path.relative_to(place / "voices")) for path in (place / "voices").rglob("*.flac"))
    return TrialList.from_pairs(all_pairs(names), source="all pairs")


def two_files(place: Path) -> tuple[Path, Path]:
    files = sorted((place / "voices").rglob("*.flac"))
    return files[0], files[4]


def test_what_is_written_is_what_the_parts_give(place: Path) -> None:
    found = load_calibration(place / "tiny-mrl")
    assert found is not None
    trials = trials_of(place)
    model = open_model(place / "tiny-mrl")
    matrix = embed_files(model, trials.paths(place / "voices")).matrix
    seconds = [audio_info(path).seconds for path in trials.paths(place / "voices")]
    scores = score_prefixes(matrix, trials, (16, 64))
    sha256 = json.loads((place / "tiny-mrl" / "config.json").read_text())["weights_sha256"]
    expected = fit_calibration(scores, trials, seconds=seconds, false_accept_rates=[0.1], weights_sha256=sha256)
    assert found.weights_sha256 == sha256 and found.quality == "duration" and sorted(found.dims) == [16, 64]
    assert found.durations == expected.durations == (min(seconds), max(seconds))
    for dim in (16, 64):
        sides = np.array(seconds)[trials.enrol], np.array(seconds)[trials.test]
        one, two = (each.log_likelihood_ratios(dim, scores[dim], *sides) for each in (found, expected))
        np.testing.assert_allclose(one, two, atol=1e-3)


def test_the_model_folder_still_loads(place: Path) -> None:
    assert ReDimNetMRL.from_pretrained(place / "tiny-mrl").embed_dim == 256


def verify_files(model: Path, first: Path, second: Path, **settings: Any) -> Verification:
    return verify_embedded_files(open_embedder(model), first, second, **settings)


def test_decisions(place: Path) -> None:
    first, second = two_files(place)
    calibration = load_calibration(place / "tiny-mrl")
    assert calibration is not None
    model = open_model(place / "tiny-mrl")
    score = score_files(model, first, second, target_dim=16)
    seconds = [[audio_info(path).seconds] for path in (first, second)]
    ratio = float(calibration.log_likelihood_ratios(16, [score], *seconds)[0])
    spec = place / "tiny-mrl"
    found = verify_files(spec, first, second, dim=16)
    assert (found.score, found.log_likelihood_ratio) == pytest.approx((score, ratio), abs=1e-5)
    assert found.rule.basis == "prior 0.01" and found.rule.threshold == pytest.approx(math.log(99))
    assert found.rule.calibrated_dims == (16, 64)
    assert found.same_speaker == (ratio >= math.log(99))
    just_below = 1 / (1 + math.exp(ratio + 1e-3))
    for prior, accepted in ((just_below * 0.99, False), (min(just_below * 1.02, 1 - 1e-9), True)):
        assert verify_files(spec, first, second, dim=16, prior=prior).same_speaker is accepted
    at_rate = verify_files(spec, first, second, dim=16, max_false_accept=0.1)
    kept = calibration.threshold(16, max_false_accept=0.1)
    highest = max(one.threshold for one in calibration.at(16).thresholds)
    assert at_rate.rule.threshold == kept and at_rate.rule.basis == "false accept rate 0.1"
    assert at_rate.same_speaker == (ratio >= kept)
    # Rates that were not kept go by the one rule for voices, too: the highest kept below, else the calibration's own bound.
    for rate, threshold, basis in (
        (0.5, kept, "false accept rate 0.5, measured at 0.1"),
        (
            1e-4,
            max(math.log(1e4), highest),
            "false accept rate 0.0001, by the calibration",
        ),
    ):
        rule = verify_files(spec, first, second, dim=16, max_false_accept=rate).rule
        assert rule.threshold == pytest.approx(threshold) and rule.basis == basis
    raw = verify_files(spec, first, second, dim=16, threshold=score + 1e-3)
    assert (raw.log_likelihood_ratio, raw.same_speaker) == (None, False)


def test_other_dims_and_uncalibrated_models_give_no_ratio(place: Path) -> None:
    first, second = two_files(place)
    found = verify_files(place / "tiny-mrl", first, second, dim=32)
    assert (found.log_likelihood_ratio, found.same_speaker, found.rule.calibrated_dims) == (None, None, (16, 64))
    assert found.rule.absence.endswith(
        "its calibration covers the dims 16, 64 (mrl calibrate --dims), or give a raw-cosine threshold"
    )
    assert verify_files(place / "tiny-mrl", first, second).rule.dim == 256
    with pytest.raises(InputError, match="at dim 32: its calibration covers the dims 16, 64"):
        verify_files(place / "tiny-mrl", first, second, dim=32, prior=0.5)
    with pytest.raises(InputError, match="at dim 192: it has no calibration"):
        verify_files(place / "tiny.pt", first, second, max_false_accept=0.1)
    with pytest.raises(InputError, match="give one of"):
        verify_files(place / "tiny-mrl", first, second, dim=16, prior=0.5, threshold=0.1)


def test_a_calibration_of_other_weights_is_refused(place: Path, tmp_path: Path) -> None:
    model = open_model(place / "tiny-mrl")
    with torch.no_grad():
        next(model.parameters()).add_(0.01)
    assert isinstance(model, ReDimNetMRL)
    model.save_pretrained(tmp_path / "other")
    shutil.copy(place / "tiny-mrl" / CALIBRATION, tmp_path / "other")
    with pytest.raises(CheckpointError, match="made for other weights"):
        load_calibration(tmp_path / "other")
    with pytest.raises(CheckpointError, match="made for other weights"):
        verify_files(tmp_path / "other", *two_files(place), dim=16)
    assert verify_files(tmp_path / "other", *two_files(place), dim=16, threshold=0.0).log_likelihood_ratio is None
    (tmp_path / "other" / CALIBRATION).unlink()
    assert load_calibration(tmp_path / "other") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "is not JSON"), (b"\xff\xfe", "cannot be read"), (b"[1]", "holds a list"), (b"{}", "format None")],
)
def test_a_damaged_file_is_named(content: bytes, message: str, place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "tiny-mrl", tmp_path / "copy")
    (tmp_path / "copy" / CALIBRATION).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"calibration.json.*{message}"):
        load_calibration(tmp_path / "copy")


def test_without_durations_and_without_a_good_list(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "tiny-mrl", tmp_path / "copy")
    before = (tmp_path / "copy" / CALIBRATION).read_bytes()
    trials = trials_of(place)
    more = TrialList.from_pairs([(True, trials.utterances[0], "absent.flac"), (False, "absent.flac", trials.utterances[5])])
    with pytest.raises(DataError, match="1 of 3 utterances"):
        calibrate_model(tmp_path / "copy", more, place / "voices")
    with pytest.raises(DataError, match="0 different-speaker"):
        calibrate_model(tmp_path / "copy", TrialList.from_pairs([(True, *trials.utterances[:2])]), place / "voices")
    with pytest.raises(InputError, match="neither a model folder nor an exported file"):
        calibrate_model(place / "tiny.pt", trials, place / "voices")
    assert (tmp_path / "copy" / CALIBRATION).read_bytes() == before
    found = calibrate_model(tmp_path / "copy", trials, place / "voices", dims=(16,), quality="none", prior=0.5)
    assert found == load_calibration(tmp_path / "copy")
    assert found.quality == "none" and found.durations is None
    assert verify_files(tmp_path / "copy", *two_files(place), dim=16).rule.threshold == 0.0


def test_a_full_disk_leaves_the_old_calibration(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(place / "tiny-mrl", tmp_path / "copy")
    before = {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()}

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        calibrate_model(tmp_path / "copy", trials_of(place), place / "voices", dims=(16,))
    assert {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()} == before

"""Validation: the rule of the best, the trial list of a folder, and the error rates themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mrl.data import Corpus, Utterance, scan_speaker_folders
from mrl.errors import DataError
from mrl.matryoshka import ReDimNetMRL
from mrl.scoring import equal_error_rate, score_prefixes
from mrl.training.checkpoints import Progress
from mrl.training.config import ValidationConfig
from mrl.training.validation import ValidationResult, Validator, all_pairs, read_validation
from mrl.trials import TrialList


def _result(*eers: float, targets: int = 1000) -> ValidationResult:
    return ValidationResult(dict(zip((4, 8), eers, strict=True)), {4: 0.5, 8: 0.5}, targets)


def test_the_rule_of_the_best() -> None:
    progress = Progress()
    assert progress.note(_result(0.10, 0.04))  # the start is a candidate
    progress.next_epoch()
    assert not progress.note(_result(0.05, 0.07))  # halved at 4 but 1.75 times at 8: 1.12 on the mean
    assert progress.validations_without_best == 1 and progress.best_epoch == 0
    progress.next_epoch()
    assert progress.note(_result(0.09, 0.04))
    assert (progress.best_epoch, progress.validations_without_best) == (2, 0)
    assert progress.relative_to_start(_result(0.09, 0.04)) == pytest.approx((0.0905 / 0.1005 + 1) / 2)
    assert Progress.from_dict(progress.to_dict()) == progress


def test_a_start_without_errors() -> None:
    start = _result(0.0, 0.0, targets=50)
    assert start.relative_to(start) == 1.0
    assert _result(0.01, 0.0, targets=50).relative_to(start) == pytest.approx(1.5)


def test_error_rates_equal_those_of_whole_embeddings(voices: Path, tiny_model: ReDimNetMRL) -> None:
    root = voices / "validation"
    trials = all_pairs(scan_speaker_folders(root), root)
    assert (len(trials), trials.num_target) == (36, 9)
    matrix = np.stack([tiny_model(path).detach().numpy() for path in trials.paths(root)])
    expected = {dim: equal_error_rate(scores, trials.labels) for dim, scores in score_prefixes(matrix, trials, (4, 32)).items()}
    tiny_model.train()
    for batch_seconds in (0.1, 3.0):
        assert Validator(trials, root, (4, 32), batch_seconds=batch_seconds).evaluate(tiny_model).eer == pytest.approx(expected)
    assert tiny_model.training
    tiny_model.freeze_backbone()
    validator = Validator(trials, root, (4, 32))
    first, again = validator.evaluate(tiny_model), validator.evaluate(tiny_model)  # the second time from kept statistics
    assert first == again and first.eer == pytest.approx(expected)


def test_kept_statistics_are_forgotten_when_the_backbone_moves(voices: Path, tiny_model: ReDimNetMRL) -> None:
    root = voices / "validation"
    validator = Validator(all_pairs(scan_speaker_folders(root), root), root, (32,))
    tiny_model.freeze_backbone()
    before = validator.evaluate(tiny_model)
    tiny_model.unfreeze_backbone()
    for parameter in tiny_model.backbone.parameters():
        parameter.data.mul_(-0.3)
    assert validator.evaluate(tiny_model) != before


def test_lists_and_folders_of_the_configuration(voices: Path, tmp_path: Path) -> None:
    assert read_validation(ValidationConfig()) is None
    path = tmp_path / "trials.txt"
    path.write_text("1 a/1.wav a/2.wav\n0 a/1.wav b/1.wav\n")
    found = read_validation(ValidationConfig(trials=str(path)))
    assert found is not None and found[1] == tmp_path and len(found[0]) == 2
    found = read_validation(ValidationConfig(trials=str(path), root=str(voices)))
    assert found is not None and found[1] == voices
    with pytest.raises(DataError, match=r"3 of 3 utterances of .* are not below .*; set data\.validation\.root"):
        Validator(found[0], voices, (4,))
    many = Corpus.of(Utterance(voices / f"{i}.wav", str(i % 7)) for i in range(3001))
    with pytest.raises(DataError, match=r"3001 recordings, too many to compare all pairs .*data\.validation\.trials"):
        all_pairs(many, voices)
    with pytest.raises(DataError, match="both kinds"):
        Validator(TrialList.from_pairs([(True, "a", "b")]), voices, (4,))

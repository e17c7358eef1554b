"""Validation speakers in the training data: refused, allowed, or only suspected by name."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mrl.data import Corpus, Utterance
from mrl.errors import TrainingError
from mrl.training.data import TrainingData, check_separate
from mrl.training.plan import plan_run
from tests.training.conftest import ConfigFactory

VIDEO = "5r0dWxy17C8"


def data(*utterances: tuple[str, str]) -> TrainingData:
    corpus = Corpus.of(Utterance(Path(path), speaker) for path, speaker in utterances)
    return TrainingData(corpus, corpus, None)


def validator(*paths: str) -> Any:
    return cast(Any, SimpleNamespace(paths=[Path(path) for path in paths]))


def test_speakers_of_public_corpora(caplog: pytest.LogCaptureFixture) -> None:
    trained = data((f"/v1/wav/id10001/{VIDEO}/1.wav", "id10001"), (f"/v2/aac/id00012/{VIDEO}/1.m4a", "id00012"))
    with pytest.raises(TrainingError, match=r"1 of 2 training .*VoxCeleb1-E and VoxCeleb1-H.*set data\.allow_overlap to true"):
        check_separate(trained, validator("/e/id10001/x6uYqmx31kE/2.wav"))
    check_separate(trained, validator("/e/id10001/x6uYqmx31kE/2.wav"), allow_overlap=True)
    assert "allowed by data.allow_overlap: do not report" in caplog.text
    caplog.clear()
    check_separate(trained, validator("/e/id10270/x6uYqmx31kE/2.wav", "/cn/data/id00012/vlog-01-002.flac"))
    check_separate(trained, None)
    assert not caplog.messages


def test_the_same_folder_and_the_same_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained = data((f"{tmp_path}/a/ann/1.wav", "ann"), (f"{tmp_path}/a/bob/1.wav", "bob"))
    (tmp_path / "a" / "ann").mkdir(parents=True)
    for name in ("1.wav", "2.wav"):
        (tmp_path / "a" / "ann" / name).touch()  # files are compared by inode: a link is the same recording
    (tmp_path / "linked").symlink_to(tmp_path / "a" / "ann" / "1.wav")
    with pytest.raises(TrainingError, match=r"1 of 2 training speakers .*\(ann\); or set data\.allow_overlap"):
        check_separate(trained, validator(f"{tmp_path}/a/ann/2.wav"))
    with pytest.raises(TrainingError, match="1 validation recordings are also in the training data"):
        check_separate(trained, validator(f"{tmp_path}/a/ann/1.wav"))
    with pytest.raises(TrainingError, match="1 validation recordings are also in the training data"):
        check_separate(trained, validator(f"{tmp_path}/linked"))
    with caplog.at_level(logging.WARNING):
        check_separate(trained, validator(f"{tmp_path}/b/bob/1.wav"))
    assert "(bob), by the names of their folders: if these are the same people" in caplog.text


def test_the_configuration_decides(make_config: ConfigFactory, voices: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = {"data.validation.folder": str(voices / "train")}
    with pytest.raises(TrainingError, match="20 validation recordings are also in the training data"):
        plan_run(make_config(**train))
    plan_run(make_config(**train, **{"data.allow_overlap": True}))
    assert "20 validation recordings" in caplog.text and "5 of 5 training speakers" in caplog.text

"""The demonstration, end to end on a very small scale."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from mrl.cli.main import run
from mrl.demo import run_demo
from mrl.demo.corpus import split_corpus, synthetic_voices
from mrl.errors import DataError
from mrl.matryoshka import ReDimNetMRL


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_voices(tmp_path_factory.mktemp("demo") / "voices", num_speakers=24, utterances_per_speaker=3, seed=0)


def test_split_is_by_speaker_and_complete(voices: Path, tmp_path: Path) -> None:
    corpus = split_corpus(voices, tmp_path, seed=0)
    assert [corpus.counts[part] for part in ("train", "validation", "test")] == [(14, 42), (4, 12), (6, 18)]
    parts: dict[str, set[str]] = {}
    for line in corpus.manifest.read_text().splitlines()[1:]:
        path, speaker, part = line.split(",")
        assert (corpus.root / path).is_file()
        parts.setdefault(part, set()).add(speaker)
    assert not parts["train"] & parts["test"] and not parts["train"] & parts["validation"]
    again = split_corpus(voices, tmp_path / "again", seed=0)
    assert again.manifest.read_text() == corpus.manifest.read_text()
    other = split_corpus(voices, tmp_path / "other", seed=1)
    assert other.manifest.read_text() != corpus.manifest.read_text()


def test_too_few_speakers(voices: Path, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "few").mkdir(exist_ok=True)
        (tmp_path / "few" / f"s{number}").symlink_to(sorted(path for path in voices.iterdir() if path.is_dir())[number])
    with pytest.raises(DataError, match="3 speakers with two or more recordings; expected at least 12"):
        split_corpus(tmp_path / "few", tmp_path / "out", seed=0)


@pytest.mark.slow
def test_whole_job_on_own_recordings(voices: Path, tmp_path: Path) -> None:
    result = run_demo(tmp_path / "demo", data=voices, backbone="tiny", backbone_epochs=2, stage_1_epochs=2, stage_2_epochs=1)
    report = json.loads((result.report / "report.json").read_text())
    systems = {system["name"]: system for system in report["systems"]}
    assert set(systems) == {"matryoshka", "unmodified backbone"}
    measured = {figures["dim"]: figures["eer"] for figures in systems["matryoshka"]["dims"]}
    assert set(measured) == {8, 16, 32, 64, 128, 192, 256}
    assert all(0.0 <= eer < 0.6 for eer in measured.values())
    assert (result.report / "eer_by_dim.png").stat().st_size > 10_000
    model = ReDimNetMRL.from_pretrained(result.model)
    recording = next(path for path in sorted(voices.rglob("*.flac")))
    assert model(recording, target_dim=32).norm().item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.slow
def test_few_speakers_are_measured_without_intervals(voices: Path, tmp_path: Path) -> None:
    """Twelve speakers are promised to be enough; three of them are tested, too few to resample."""
    few = tmp_path / "few"
    for speaker in sorted(folder for folder in voices.iterdir() if folder.is_dir())[:12]:
        shutil.copytree(speaker, few / speaker.name)
    result = run_demo(tmp_path / "demo", data=few, backbone="tiny", backbone_epochs=1, stage_1_epochs=1, stage_2_epochs=0)
    figures = result.evaluation.systems[0].figures[-1]
    assert 0.0 <= figures.equal_error_rate <= 1.0 and figures.equal_error_rate_interval is None
    assert (result.report / "report.json").is_file() and (result.report / "table.md").is_file()


@pytest.mark.slow
def test_own_recordings_start_from_the_bundled_network_and_replace_an_earlier_demonstration(voices: Path, tmp_path: Path) -> None:
    earlier = tmp_path / "demo" / "matryoshka"
    (earlier / "checkpoints" / "step-00000001").mkdir(parents=True)
    (earlier / "config.yaml").write_text("training: {seed: 3}\n")
    (tmp_path / "demo" / "notes.txt").write_text("mine")
    result = run_demo(tmp_path / "demo", data=voices, stage_1_epochs=1, stage_2_epochs=0)
    bundled = ReDimNetMRL.from_pretrained("mrl-b0-demo").backbone.state_dict()
    trained = ReDimNetMRL.from_pretrained(result.model)
    assert trained.backbone_is_unmodified
    assert all(torch.equal(tensor, bundled[name]) for name, tensor in trained.backbone.state_dict().items())
    assert result.evaluation.provenance["weights"].endswith("mrl-b0-demo.pt")
    assert result.evaluation.systems[1].dims[-1] == 192
    assert (tmp_path / "demo" / "notes.txt").read_text() == "mine" and not (earlier / "checkpoints" / "step-00000001").exists()


def test_weights_are_a_backbone_already(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["demo", "--weights", "b0.pt", "--backbone", "tiny", "--output", str(tmp_path / "demo")]
    assert run(arguments) == 2
    assert "weights are the backbone already; leave out backbone (found 'tiny')" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--data", str(tmp_path / "nowhere"), "--output", str(tmp_path / "demo")]) == 2
    error = capsys.readouterr().err.strip()
    assert "nowhere" in error and "\n" not in error

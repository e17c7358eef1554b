"""Whole small runs with each loss, dimension dropout, margins per dim, and training without labels."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mrl.audio import load_audio
from mrl.errors import DataError
from mrl.matryoshka import NoClassLoss, ReDimNetMRL, SimilarityPreservationLoss
from mrl.training import TrainConfig, plan_run, run_training
from mrl.training.building import build_encoder, build_system
from mrl.training.checkpoints import CheckpointFolder
from mrl.training.config import TrainDataConfig
from mrl.training.data import read_corpus
from mrl.training.logs import MetricsFile
from tests.training.conftest import ConfigFactory, dying_after

ONE_STAGE: dict[str, Any] = {"training.num_epochs": 2, "advanced.freeze_backbone_epochs": 2, "data.validation": {}}
PAIRS: dict[str, Any] = {"data.crops_per_speaker": 2}


def _records(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in MetricsFile(folder / "metrics.jsonl").read() if record["kind"] == kind]


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    latest = CheckpointFolder(folder / "checkpoints", 1).latest()
    assert latest is not None
    return load_file(latest / "state.safetensors")


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        ({"loss.type": "aam", "loss.topk_penalty": 0.06, "loss.topk": 2}, {"class_matrices.0"}),
        ({"loss.type": "sphereface2", "loss.shared_classes": True}, {"class_matrices.0", "biases"}),
        ({"loss.type": "angular_prototypical", **PAIRS}, {"scales"}),
        ({"loss.type": "supervised_contrastive", **PAIRS}, set()),
    ],
    ids=["topk", "sphereface2", "angular_prototypical", "supervised_contrastive"],
)
def test_every_loss_trains(make_config: ConfigFactory, changes: dict[str, Any], parameters: set[str]) -> None:
    config = make_config(**ONE_STAGE, **changes, **{"training.learning_rate": 0.01, "advanced.projection_init": "data_free"})
    plan = plan_run(config)
    assert plan.chance_level is not None and plan.chance_level > 0
    folder = run_training(config).run_folder
    steps = _records(folder, "step")
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert {name for name in steps[0] if name.startswith("loss_")} == {"loss_4", "loss_16", "loss_32"}
    trained = {name.removeprefix("system.loss.") for name in _tensors(folder) if name.startswith("system.loss.")}
    assert trained >= parameters and bool(trained) is bool(parameters)


def test_each_setting_reaches_the_loss(make_config: ConfigFactory) -> None:
    def loss(**changes: Any) -> Any:
        config = make_config(**{key.replace("__", "."): value for key, value in changes.items()})
        return build_system(config, build_encoder(config), 5).loss

    default = loss()
    assert (default.scale, default.margins, default.dim_dropout) == (30.0, {4: 0.2, 16: 0.2, 32: 0.2}, 0.0)
    margins = loss(loss__mrl_margins=[0.1, 0.2, 0.3])
    assert margins.margins == pytest.approx({4: 0.1, 16: 0.2, 32: 0.3})
    margins.set_margin(0.1)
    assert margins.margins == pytest.approx({4: 0.05, 16: 0.1, 32: 0.15})
    penalty = loss(loss__topk_penalty=0.06, loss__topk=3).class_objective
    assert (penalty.topk_penalty, penalty.topk) == (0.06, 3)
    sphere = loss(
        loss__type="sphereface2",
        loss__sphereface2_lambda=0.6,
        loss__sphereface2_t=2.0,
        loss__sphereface2_margin_type="A",
        loss__scale=20.0,
    ).class_objective
    assert (sphere.positive_share, sphere.exponent, sphere.margin_type, sphere.scale) == (0.6, 2.0, "A", 20.0)
    dropping = loss(loss__dim_dropout=0.9, training__seed=4)
    drawn = set()
    for step in range(50):
        dropping.start_step(step)
        drawn.add(dropping.active_dims)
    assert (32,) in drawn and len(drawn) > 1
    pairs = loss(loss__type="supervised_contrastive", data__crops_per_speaker=4)
    assert pairs.scale == pytest.approx(1 / 0.07)
    # batches of 8: two speakers with four crops each
    assert pairs.chance_level() == pytest.approx(pairs.pair_objective.uninformed_loss(2, 4, 0.2, 1 / 0.07))


def test_dropout_leaves_dims_out_of_a_step_and_resumes_bit_for_bit(make_config: ConfigFactory, tmp_path: Path) -> None:
    changes = {**ONE_STAGE, "loss.dim_dropout": 0.5, "training.checkpoint_every_steps": 1, "training.batch_size": 4}
    whole = run_training(make_config(**changes)).run_folder
    steps = _records(whole, "step")
    reported = [{name for name in record if name.startswith(("loss_", "accuracy_"))} for record in steps]
    assert all({"loss_32", "accuracy_32"} <= names for names in reported)
    assert 0 < sum("loss_4" in names for names in reported) < len(steps)
    assert all(("loss_4" in names) == ("accuracy_4" in names) for names in reported)

    config = make_config(**changes, **{"training.output_dir": str(tmp_path / "dying")})
    with dying_after(4):
        run_training(config)
    again = run_training(config, resume="auto").run_folder
    assert _records(again, "step") == steps
    one, other = _tensors(whole), _tensors(again)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def _unlabelled(make_config: ConfigFactory, voices: Path, folder: Path, **changes: Any) -> TrainConfig:
    """The training voices in one flat folder, without a word on who speaks."""
    if not folder.exists():
        folder.mkdir()
        for number, path in enumerate(sorted((voices / "train").rglob("*.flac"))):
            shutil.copy(path, folder / f"{number}.flac")
    settings = {
        "data.train": {"folder": str(folder), "unlabelled": True},
        "loss.type": "none",
        "loss.similarity_weight": 1.0,
        "model.mrl_dims": [4, 32],
        **changes,
    }
    return make_config(**settings)


def test_unlabelled_audio_trains_the_head(
    make_config: ConfigFactory, voices: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {
        "training.num_epochs": 9,
        "advanced.freeze_backbone_epochs": 8,
        "training.learning_rate": 0.002,
        "advanced.projection_init": "data_free",
        "advanced.ema_decay": 0.0,
        "data.validation": {},
    }
    config = _unlabelled(make_config, voices, tmp_path / "flat", **changes)
    plan = plan_run(config)
    assert plan.chance_level is None and plan.speakers == 0 and plan.utterances == 20
    assert "unknown speakers" in plan.describe() and "Chance" not in plan.describe()
    with caplog.at_level(logging.INFO, logger="mrl"):
        result = run_training(config)
    assert "20 utterances of unknown speakers; no labels" in caplog.text and "chance level" not in caplog.text
    epochs = _records(result.run_folder, "epoch")
    assert [record["stage"] for record in epochs] == [1] * 8 + [2]
    start, best = (ReDimNetMRL.from_pretrained(result.run_folder / name) for name in ("start", "best"))
    with torch.inference_mode():
        audio = [torch.from_numpy(load_audio(path)[:8000]) for path in sorted((tmp_path / "flat").iterdir())]
        teacher, student = (model.project(model.pooled_statistics(torch.stack(audio))) for model in (start, best))
    preservation = SimilarityPreservationLoss([4, 32])
    assert preservation(student, teacher).item() < 0.5 * preservation(teacher, teacher).item()
    steps = _records(result.run_folder, "step")
    assert all(record["similarity"] == pytest.approx(record["loss"], rel=1e-5) for record in steps)
    assert not any(name.startswith(("loss_", "accuracy_")) for record in steps for name in record)
    assert not any(name.startswith("system.loss.") for name in _tensors(result.run_folder))


def test_a_manifest_without_speakers(voices: Path, tmp_path: Path) -> None:
    paths = sorted((voices / "train").rglob("*.flac"))
    manifest = tmp_path / "list.csv"
    manifest.write_text("path,part\n" + "".join(f"{path},{number % 2}\n" for number, path in enumerate(paths)))
    with pytest.raises(DataError, match="no value in column 'speaker'"):
        read_corpus(TrainDataConfig(manifest=str(manifest)))
    corpus = read_corpus(TrainDataConfig(manifest=str(manifest), unlabelled=True, where={"part": 1}))
    assert [one.path for one in corpus.utterances] == paths[1::2]
    assert corpus.speakers == ("",) and set(corpus.labels) == {0}
    manifest.write_text(f"path\n{paths[0]}\n")
    with pytest.raises(DataError, match="found only .*utterance0000"):
        read_corpus(TrainDataConfig(manifest=str(manifest), unlabelled=True))
    with pytest.raises(DataError, match="no recordings in"):
        (tmp_path / "empty").mkdir()
        read_corpus(TrainDataConfig(folder=str(tmp_path / "empty"), unlabelled=True))


def test_known_speakers_can_be_ignored(voices: Path) -> None:
    labelled = read_corpus(TrainDataConfig(folder=str(voices / "train")))
    ignored = read_corpus(TrainDataConfig(folder=str(voices / "train"), unlabelled=True))
    assert labelled.without_speakers() == ignored
    assert len(labelled.speakers) == 5 and ignored.speakers == ("",)


def test_the_loss_without_classes_is_nothing() -> None:
    loss = NoClassLoss()
    loss.set_margin(0.3)
    loss.start_step(3)
    loss.initialise_from_class_means(torch.randn(2, 4), torch.tensor([0, 0]))
    output = loss(torch.randn(2, 4, requires_grad=True), torch.tensor([0, 0]))
    assert output.total.item() == 0.0 and not output.total.requires_grad and output.per_dim == {} == output.accuracy
    assert not list(loss.parameters())

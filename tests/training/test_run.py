"""Whole runs in this process: both stages, frozen means frozen, resume, best, from scratch."""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from mrl.errors import CheckpointError, DataError, TrainingError
from mrl.matryoshka import ReDimNetMRL
from mrl.pretrained import load_pretrained_redimnet, read_official_checkpoint
from mrl.training import TrainConfig, building, run_training
from mrl.training.checkpoints import CheckpointFolder
from mrl.training.logs import MetricsFile
from mrl.training.validation import Validator
from tests.training.conftest import ConfigFactory, dying_after

# All randomness of a run comes from its seed, so whatever differs between an interrupted and an uninterrupted run is a fault.
FULL: dict[str, Any] = {
    "training.checkpoint_every_steps": 2,
    "training.accumulation_steps": 2,
    "training.batch_size": 4,
    "loss.similarity_weight": 0.5,
    "advanced.teacher_init": "pca",
    "data.augmentation.babble_probability": 0.5,
}


def _records(folder: Path) -> list[dict[str, Any]]:
    return MetricsFile(folder / "metrics.jsonl").read()


def _last_tensors(folder: Path) -> dict[str, torch.Tensor]:
    latest = CheckpointFolder(folder / "checkpoints", 1).latest()
    assert latest is not None
    return load_file(latest / "state.safetensors")


def _assert_same_runs(one: Path, other: Path) -> None:
    assert _records(one) == _records(other)
    first, second = _last_tensors(one), _last_tensors(other)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    best, other_best = (load_file(folder / "best" / "model.safetensors") for folder in (one, other))
    assert all(torch.equal(best[name], other_best[name]) for name in best)


@pytest.mark.usefixtures("drawn_curves")
def test_both_stages(make_config: ConfigFactory, voices: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="mrl"):
        result = run_training(make_config())
    messages = [record.getMessage() for record in caplog.records]
    assert "Epoch 2: Unfreezing backbone (Stage 1 → Stage 2)" in messages
    assert sum("in the optimizer" in message for message in messages) == 2
    folder = result.run_folder
    names = {path.name for path in folder.iterdir()}
    files = {"config.yaml", "environment.json", "metrics.jsonl", "curves.png"}
    assert names >= files | {"start", "best", "last", "checkpoints", "cache"}
    records = _records(folder)
    steps = [record for record in records if record["kind"] == "step"]
    assert [record["step"] for record in steps] == list(range(1, 10))  # 20 crops in batches of 8
    assert [record["stage"] for record in steps] == [1] * 6 + [2] * 3
    validations = [record for record in records if record["kind"] == "validation"]
    assert [record["epochs_done"] for record in validations] == [0, 1, 2, 3]
    assert validations[0]["best"] and validations[0]["relative_eer"] == 1.0
    assert set(validations[0]["eer"]) == {"4", "16", "32"}
    best = min(validations, key=lambda record: record["relative_eer"])
    assert result.best is not None and result.best.to_dict()["eer"] == best["eer"]
    model = ReDimNetMRL.from_pretrained(folder / "best")
    assert model.mrl_dims == (4, 16, 32)
    # at step 0 the head is a rotation of the pretrained embedding: the same cosines at its full length
    start, backbone = ReDimNetMRL.from_pretrained(folder / "start"), load_pretrained_redimnet(weights=voices / "tiny.pt")
    audio = torch.randn(4, 8000, generator=torch.Generator().manual_seed(0)) * 0.1
    unit = torch.nn.functional.normalize(backbone(audio), dim=1)
    assert torch.allclose(start(audio, target_dim=24) @ start(audio, target_dim=24).T, unit @ unit.T, atol=1e-5)


def test_a_teacher_with_a_head_of_its_own(make_config: ConfigFactory, tmp_path: Path) -> None:
    """The start is that of projection_init, the teacher that of teacher_init, and the losses follow the teacher."""
    losses = {}
    for name, teacher in (("own", "pca"), ("same", "data_free"), ("none", None)):
        folder = tmp_path / name
        config = make_config(
            **{
                "training.num_epochs": 1,
                "training.output_dir": str(folder),
                "loss.similarity_weight": 50.0,
                "advanced.freeze_backbone_epochs": 1,
                "advanced.projection_init": "data_free",
                "advanced.teacher_init": teacher,
            }
        )
        run_training(config)
        assert (folder / "teacher").exists() is (teacher is not None)
        losses[name] = [record["loss"] for record in _records(folder) if record["kind"] == "step"]
    assert losses["same"] == losses["none"]
    assert losses["own"][0] != losses["none"][0]
    start, teacher = (load_file(tmp_path / "own" / name / "model.safetensors") for name in ("start", "teacher"))
    same = load_file(tmp_path / "none" / "start" / "model.safetensors")
    assert torch.equal(start["projection.weight"], same["projection.weight"])
    assert not torch.allclose(teacher["projection.weight"], start["projection.weight"], atol=1e-3)
    assert all(torch.equal(teacher[name], start[name]) for name in start if name.startswith("backbone."))


@pytest.mark.parametrize("cached", [True, False])
def test_stage_1_leaves_the_backbone_bit_for_bit(make_config: ConfigFactory, cached: bool) -> None:
    config = make_config(
        **{
            "training.num_epochs": 2,
            "advanced.cache_pooled_statistics": cached,
            "advanced.projection_init": "data_free",
            "training.learning_rate": 0.01,
        }
    )
    folder = run_training(config).run_folder
    start, end = load_file(folder / "start" / "model.safetensors"), _last_tensors(folder)
    backbone = [name for name in start if name.startswith("backbone.")]
    assert len(backbone) > 100
    for name in backbone:  # parameters and buffers, trained and averaged
        assert torch.equal(end[f"system.encoder.{name}"], start[name]), name
        assert f"average.{name}" not in end or torch.equal(end[f"average.{name}"], start[name]), name
    assert not torch.equal(end["system.encoder.projection.weight"], start["projection.weight"])
    steps = [record["loss"] for record in _records(folder) if record["kind"] == "step"]
    assert steps[-1] < steps[0]
    assert (folder / "cache").exists() is cached


def test_statistics_of_stage_2(make_config: ConfigFactory) -> None:
    changed = {}
    for kind in ("frozen", "update"):
        config = make_config(
            **{
                "training.num_epochs": 1,
                "advanced.freeze_backbone_epochs": 0,
                "advanced.batch_norm_statistics": kind,
                "training.output_dir": f"run-{kind}",
            }
        )
        folder = run_training(config).run_folder
        start, end = load_file(folder / "start" / "model.safetensors"), _last_tensors(folder)
        changed[kind] = {name for name in start if not torch.equal(end[f"system.encoder.{name}"], start[name])}
    for kind in changed:
        assert any("encoder" in name and name.endswith("weight") for name in changed[kind])
        assert any("running_mean" in name for name in changed[kind]) is (kind == "update")


@pytest.mark.slow
@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(data=st.data())
def test_a_run_that_dies_anywhere_resumes_bit_for_bit(make_config: ConfigFactory, tmp_path: Path, data: st.DataObject) -> None:
    """The exception stands for a kill: nothing of the process survives but its files."""
    whole = make_config(**FULL)
    if not Path(whole.training.output_dir).exists():
        run_training(whole)
    written = len(_records(Path(whole.training.output_dir)))
    config = make_config(**FULL, **{"training.output_dir": str(tmp_path / "dying")})
    shutil.rmtree(tmp_path / "dying", ignore_errors=True)
    for lives in range(2):
        deaths = data.draw(st.integers(1, written - 1), label=f"records before death {lives}")
        with dying_after(deaths, may_live=True):
            run_training(config, resume="auto")
    run_training(config, resume="auto")
    _assert_same_runs(Path(config.training.output_dir), Path(whole.training.output_dir))


def test_resume_refuses_what_would_not_be_the_same_run(make_config: ConfigFactory, voices: Path, tmp_path: Path) -> None:
    config = make_config(**{"training.num_epochs": 2})
    folder = run_training(config).run_folder
    with pytest.raises(TrainingError, match=r"already holds a run; resume it with --resume auto"):
        run_training(config)
    with pytest.raises(TrainingError, match=r"other settings \(training\.batch_size was 8, is 4\)"):
        run_training(make_config(**{"training.num_epochs": 2, "training.batch_size": 4}), resume="auto")
    assert run_training(make_config(**{"training.num_epochs": 2, "training.keep_checkpoints": 5}), resume="auto").steps == 6
    with pytest.raises(CheckpointError, match="cannot be read"):
        run_training(config, resume=str(folder / "checkpoints" / "step-00000099"))
    latest = CheckpointFolder(folder / "checkpoints", 1).latest()
    with pytest.raises(TrainingError, match=r"is not a checkpoint of the run in"):
        run_training(make_config(**{"training.output_dir": str(tmp_path / "other")}), resume=str(latest))
    shutil.copytree(voices / "train", tmp_path / "less")
    moved = {"training.num_epochs": 2, "data.train.folder": str(tmp_path / "less")}
    with pytest.raises(TrainingError, match=r"data\.train\.folder was"):
        run_training(make_config(**moved), resume="auto")


def test_resume_notices_changed_data(make_config: ConfigFactory, voices: Path, tmp_path: Path) -> None:
    shutil.copytree(voices / "train", tmp_path / "speech")
    config = make_config(**{"training.num_epochs": 2, "data.train.folder": str(tmp_path / "speech")})
    run_training(config)
    next((tmp_path / "speech").rglob("*.flac")).unlink()
    with pytest.raises(TrainingError, match="the training data has changed since the checkpoint"):
        run_training(config, resume="auto")


def test_from_scratch_gives_an_official_checkpoint(make_config: ConfigFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    from mrl.backbone import Backbone, ReDimNet
    from tests.training.conftest import TINY_NETWORK

    asked = []

    def tiny(name: str) -> Backbone:
        asked.append(name)
        return ReDimNet.from_model_config(TINY_NETWORK)

    monkeypatch.setattr(building, "scratch_backbone", tiny)
    config = make_config(
        **{
            "advanced.use_pretrained": False,
            "advanced.model_name": "b1",
            "training.learning_rate": 0.01,
            "advanced.ema_decay": 0.0,
        }
    )
    result = run_training(config)
    assert asked == ["b1"]
    steps = [record for record in _records(result.run_folder) if record["kind"] == "step"]
    assert {record["stage"] for record in steps} == {2} and steps[-1]["loss"] < steps[0]["loss"]
    start, end = load_file(result.run_folder / "start" / "model.safetensors"), _last_tensors(result.run_folder)
    same = {name for name in start if torch.equal(end[f"system.encoder.{name}"], start[name])}
    assert not any("running_mean" in name or name.endswith("conv.weight") for name in same)
    official = read_official_checkpoint(result.run_folder / "best" / "official.pt")
    assert official.model_config["embed_dim"] == 32
    model = ReDimNetMRL.from_pretrained(result.run_folder / "best")
    audio = torch.randn(3, 6000, generator=torch.Generator().manual_seed(1)) * 0.1
    again = load_pretrained_redimnet(weights=result.run_folder / "best" / "official.pt")
    assert torch.allclose(again(audio), model.project(model.pooled_statistics(audio)), atol=1e-5)


def test_early_stopping_keeps_the_start_as_best(make_config: ConfigFactory, caplog: pytest.LogCaptureFixture) -> None:
    config = make_config(
        **{
            "training.num_epochs": 40,
            "advanced.freeze_backbone_epochs": 40,
            "training.learning_rate": 3.0,  # spoils the head
            "advanced.ema_decay": 0.0,
            "training.early_stopping_validations": 2,
        }
    )
    result = run_training(config)
    records = [record for record in _records(result.run_folder) if record["kind"] == "validation"]
    last_best = max(number for number, record in enumerate(records) if record["best"])
    assert len(records) == last_best + 3 < 41
    best = ReDimNetMRL.from_pretrained(result.run_folder / "best")
    if last_best == 0:
        assert "best/ is the model of step 0" in caplog.text
        start = ReDimNetMRL.from_pretrained(result.run_folder / "start")
        assert torch.equal(best.projection.weight, start.projection.weight)


def test_without_validation_the_last_model_is_best(make_config: ConfigFactory) -> None:
    config = make_config(**{"data.validation": {}, "training.num_epochs": 2})
    result = run_training(config)
    assert result.best is None and result.best_epoch == 2
    best = load_file(result.run_folder / "best" / "model.safetensors")
    assert torch.equal(best["projection.weight"], _last_tensors(result.run_folder)["average.projection.weight"])


def test_unusable_data_is_reported(make_config: ConfigFactory, voices: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="9 validation recordings are also in the training data"):
        run_training(make_config(**{"data.train.folder": str(voices / "validation")}))
    with pytest.raises(DataError, match="at least two speakers"):
        manifest = tmp_path / "one.csv"
        manifest.write_text(f"path,speaker\n{voices}/train/speaker0000/utterance0000.flac,a\n")
        run_training(make_config(**{"data.train": {"manifest": str(manifest)}}))
    with pytest.raises(DataError, match=r"the head cannot be fitted .* use advanced\.projection_init: data_free"):
        run_training(make_config(**{"advanced.init_utterances_per_speaker": 1}))
    with pytest.raises(DataError, match=r"no recordings in .* \(9 before data\.augmentation\.exclude\)"):
        noise = {"noise_folders": [str(voices / "validation")], "exclude": ["*.flac"]}
        run_training(make_config(**{"data.augmentation": noise}))


@pytest.mark.slow
def test_options_change_what_is_trained(make_config: ConfigFactory, tmp_path: Path) -> None:
    """Each of these settings must have an effect on the very first losses."""
    base = {"training.num_epochs": 1, "advanced.freeze_backbone_epochs": 1, "data.validation": {}}
    variants: dict[str, dict[str, Any]] = {
        "nothing": {},
        "margin": {"loss.margin": 0.4},
        "warm-up": {"loss.margin_warmup_epochs": 2},
        "steep warm-up": {"loss.margin_warmup_epochs": 2, "loss.margin_schedule": "exponential"},
        "no margin": {"loss.margin_delay_epochs": 1},
        "class decay": {"training.class_weight_decay_ratio": 1000.0},
        "scale": {"loss.scale": 20.0},
        "sub-centres": {"loss.type": "subcenter_aam", "loss.num_subcenters": 2},
        "shared": {"loss.shared_classes": True, "advanced.ema_decay": 0.0},
        "hard negatives": {"loss.type": "mv_softmax", "loss.mv_emphasis": 0.5},
        "small batch": {"training.batch_size": 4},
        "sampled classes": {"training.batch_size": 4, "loss.sampled_classes": 0.1},
        "cache in 16 bits": {"advanced.cache_storage": "float16"},
        "weights": {"model.mrl_weights": [1, 0, 3]},
        "dims": {"model.mrl_dims": [8, 32]},
        "speeds": {"data.speeds": [0.9]},
        "seed": {"training.seed": 7},
        "lda": {"advanced.projection_init": "lda"},
        "data-free": {"advanced.projection_init": "data_free"},
        "one utterance": {"advanced.init_utterances_per_speaker": 2},
        "views": {"advanced.cache_views": 1},
        "crops": {"data.crop_seconds": 0.2},
        "short views": {"advanced.cache_max_seconds": 0.3},
        "balance": {"data.balance": "utterances"},
        "draws": {"data.draws_per_speaker": 2},
        "babble": {"data.augmentation.babble_probability": 1.0},
        "louder babble": {"data.augmentation.babble_probability": 1.0, "data.augmentation.babble_snr_db": [0.0, 0.0]},
        "rate": {"training.learning_rate": 0.01},
        "sgd": {"training.optimizer": "sgd"},
        "no warm-up": {"training.warmup_epochs": 0.0},
        "constant": {"training.schedule": "constant", "training.warmup_epochs": 0.0},
        "decay": {"training.weight_decay": 0.5},
        "clip": {"training.clip_norm": 1e-8},
        # Head and loss compute in float32 under any precision, so it shows where the backbone trains.
        "backbone": {"advanced.freeze_backbone_epochs": 0},
        "bf16": {"advanced.freeze_backbone_epochs": 0, "training.precision": "bf16"},
    }
    losses: dict[str, tuple[float, ...]] = {}
    for name, changes in variants.items():
        output = {"training.output_dir": str(tmp_path / name.replace(" ", "-"))}
        folder = run_training(make_config(**{**base, **changes, **output})).run_folder
        losses[name] = tuple(record["loss"] for record in _records(folder) if record["kind"] == "step")
    same = [(one, other) for one, other in itertools.combinations(losses, 2) if losses[one] == losses[other]]
    assert same == [], "some settings have the same losses"
    output = {"training.output_dir": str(tmp_path / "read-ahead"), "advanced.cache_read_ahead_megabytes": 1}
    folder = run_training(make_config(**{**base, **output})).run_folder
    read_ahead = tuple(record["loss"] for record in _records(folder) if record["kind"] == "step")
    assert read_ahead == losses["nothing"]  # how far ahead the cache is read decides the time, not the result


def test_dry_run_prints_the_plan(make_config: ConfigFactory) -> None:
    from mrl.training import plan_run

    config: TrainConfig = make_config(**{"data.speeds": [0.9]})
    plan = plan_run(config)
    assert (plan.utterances, plan.speakers, plan.validation_trials) == (40, 10, 36)
    assert plan.cache_bytes == 40 * 2 * 96 * 4
    first, second = plan.stages
    head = 32 * 96 + 32 + 10 * (4 + 16 + 32)
    assert (first.trainable, first.steps_per_epoch) == (head, 5) and second.trainable > head + 10_000
    assert second.memory_bytes > first.memory_bytes > 4 * 4 * head
    text = plan.describe()
    assert "40 utterances of 10 speakers" in text and "Stage 2: epochs 2 to 2, backbone, head and classes" in text
    assert not Path(config.training.output_dir).exists()


def test_a_stop_during_the_cache_or_validation_loses_nothing(
    make_config: ConfigFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM arrives while the backbone fills the cache, then during the second validation."""
    whole = run_training(make_config(**{"training.num_epochs": 2}))
    config = make_config(**{"training.num_epochs": 2, "training.output_dir": str(tmp_path / "stopped")})

    def ask(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the run went on")

    for target, name, steps in ((ReDimNetMRL, "pooled_statistics", 0), (Validator, "evaluate", 0), (Validator, "evaluate", 3)):
        original, calls = getattr(target, name), [steps // 3]

        def stopping(*args: Any, original: Any = original, calls: list[int] = calls, **more: Any) -> Any:
            calls[0] -= 1
            return original(*args, **more) if calls[0] >= 0 else ask()

        with monkeypatch.context() as patch:
            patch.setattr(target, name, stopping)
            result = run_training(config, resume="auto")
        assert result.interrupted and result.steps == steps
    assert CheckpointFolder(tmp_path / "stopped" / "checkpoints", 1).steps() == [0, 3]
    resumed = run_training(config, resume="auto")
    assert not resumed.interrupted
    _assert_same_runs(resumed.run_folder, whole.run_folder)


def test_a_resumed_run_may_split_its_batches_otherwise(make_config: ConfigFactory, tmp_path: Path) -> None:
    """After running out of memory: half the batch, twice as many of them."""
    base = {"training.num_epochs": 2, "training.checkpoint_every_steps": 1, "training.keep_checkpoints": 9}
    whole = run_training(make_config(**base)).run_folder
    expected = [record["loss"] for record in _records(whole) if record["kind"] == "step"]
    halves = make_config(**base, **{"training.batch_size": 4, "training.accumulation_steps": 2})
    run_training(halves, resume=str(whole / "checkpoints" / "step-00000002"))
    assert [record["loss"] for record in _records(whole) if record["kind"] == "step"] == pytest.approx(expected, rel=1e-4)


def test_the_folder_records_what_made_the_model(make_config: ConfigFactory) -> None:
    folder = run_training(make_config(**{"training.num_epochs": 1, "advanced.freeze_backbone_epochs": 1})).run_folder
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["torch"] == torch.__version__ and "cores" in environment["hardware"]
    assert environment["git_commit"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", environment["git_commit"])
    card = (folder / "best" / "README.md").read_text()
    assert "| training_speakers | 5 |" in card and "min_dcf" in card
    for name in ("README.md", "config.json"):  # what is published does not say where it was made
        assert str(folder.parent) not in (folder / "best" / name).read_text()
    (validation, *_) = [record for record in _records(folder) if record["kind"] == "validation"]
    assert set(validation["min_dcf"]) == set(validation["eer"]) == {"4", "16", "32"}
    assert all(0 <= value <= 1 for value in validation["min_dcf"].values())


def test_best_comes_back_after_a_kill_between_two_renames(make_config: ConfigFactory, caplog: pytest.LogCaptureFixture) -> None:
    config = make_config(**{"training.num_epochs": 1, "advanced.freeze_backbone_epochs": 1})
    folder = run_training(config).run_folder
    weights = (folder / "best" / "model.safetensors").read_bytes()
    (folder / "best").rename(folder / ".best.0123abcd.old")
    (folder / ".best.0123abcd.tmp").mkdir()
    run_training(config, resume="auto")
    assert (folder / "best" / "model.safetensors").read_bytes() == weights
    assert "was being replaced when the run was killed" in caplog.text
    assert not list(folder.glob(".best.*"))


def _with_seventeen_utterances(voices: Path, folder: Path) -> Path:
    shutil.copytree(voices / "train", folder)
    for path in sorted(folder.rglob("*.flac"))[:3]:
        path.unlink()
    return folder


@pytest.mark.parametrize("batch_size", [8, 4])
def test_a_last_batch_of_one_crop_does_not_end_a_run_that_moves_statistics(
    make_config: ConfigFactory, voices: Path, tmp_path: Path, batch_size: int
) -> None:
    """17 utterances in batches of 8 or 4 would leave one; BatchNorm cannot normalise one pooled vector by itself."""
    config = make_config(
        **{
            "data.train.folder": str(_with_seventeen_utterances(voices, tmp_path / "seventeen")),
            "data.balance": "utterances",
            "training.num_epochs": 2,
            "training.batch_size": batch_size,
            "training.checkpoint_every_steps": 1,
            "training.keep_checkpoints": 99,
            "advanced.freeze_backbone_epochs": 0,
            "advanced.batch_norm_statistics": "update",
        }
    )
    result = run_training(config)
    assert result.steps == 2 * -(-17 // batch_size)  # as many steps as before, the last two of them smaller
    rates = [record["learning_rate"] for record in _records(result.run_folder) if record["kind"] == "step"]
    assert len(set(rates)) == len(rates)  # each step has its own place in the schedule
    records, tensors = _records(result.run_folder), _last_tensors(result.run_folder)
    resumed = run_training(config, resume=str(result.run_folder / "checkpoints" / f"step-{result.steps - 1:08d}"))
    assert _records(resumed.run_folder) == records
    assert all(torch.equal(value, tensors[name]) for name, value in _last_tensors(resumed.run_folder).items())


def test_an_epoch_too_small_for_statistics_is_refused_in_one_line(make_config: ConfigFactory) -> None:
    config = make_config(
        **{
            "training.batch_size": 1,
            "advanced.freeze_backbone_epochs": 0,
            "advanced.batch_norm_statistics": "update",
            "data.validation": {},
        }
    )
    with pytest.raises(TrainingError, match=r"an epoch of 20 crops leaves a process a batch of one crop.*training\.batch_size"):
        run_training(config)


@pytest.mark.parametrize("stage_1", [2, 0])
def test_a_bad_recording_does_not_end_a_run_and_may_be_excluded_on_resume(
    make_config: ConfigFactory, voices: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, stage_1: int
) -> None:
    """From the cache and from waveforms: counted, named once, replaced the same way whether it is bad or excluded."""
    shutil.copytree(voices / "train", tmp_path / "speech")
    broken = sorted((tmp_path / "speech").rglob("*.flac"))[3]
    broken.write_bytes(b"not audio")
    rows = [f"{path},{path.parent.name}\n" for path in sorted((tmp_path / "speech").rglob("*.flac"))]
    (tmp_path / "speech.csv").write_text("".join(["path,speaker\n", *rows]))
    base: dict[str, Any] = {
        "data.train": {"manifest": str(tmp_path / "speech.csv")},
        "training.num_epochs": 2,
        "advanced.freeze_backbone_epochs": stage_1,
        "training.keep_checkpoints": 9,
        "data.augmentation.babble_probability": 0.0,
    }
    config = make_config(**base)
    result = run_training(config)
    listed = result.run_folder / "bad-utterances.txt"
    assert listed.read_text().startswith(f"{broken}\t") and listed.read_text().count("\n") == 1
    assert sum("another one takes its place" in record.getMessage() for record in caplog.records) == 1
    records, tensors = _records(result.run_folder), _last_tensors(result.run_folder)

    broken.unlink()  # nor need it be there any longer
    excluding = make_config(**base, **{"data.train.exclude": str(listed)})
    shutil.rmtree(result.run_folder / "cache", ignore_errors=True)
    run_training(excluding, resume=str(result.run_folder / "checkpoints" / "step-00000003"))
    assert _records(result.run_folder) == records
    assert all(torch.equal(value, tensors[name]) for name, value in _last_tensors(result.run_folder).items())

    broken.write_bytes(b"not audio")
    strict = make_config(**base, **{"data.max_bad_share": 0.04})
    message = r"1 of 20 utterances cannot be used" if stage_1 else r"1 of the 20 draws of epoch 1 cannot be used"
    with pytest.raises((DataError, TrainingError), match=message):
        run_training(strict, resume=str(result.run_folder / "checkpoints" / "step-00000003"))
    fresh = make_config(**base, **{"data.max_bad_share": 0.04, "training.output_dir": str(tmp_path / "fresh")})
    with pytest.raises(DataError, match=r"1 of 20 utterances cannot be used; data\.max_bad_share allows 0\.04"):
        run_training(fresh)


def test_patience_belongs_to_a_stage(make_config: ConfigFactory, caplog: pytest.LogCaptureFixture) -> None:
    """A head that does not get better must not keep the backbone from being trained."""
    config = make_config(
        **{
            "training.num_epochs": 9,
            "advanced.freeze_backbone_epochs": 6,
            "training.learning_rate": 3.0,  # spoils the head
            "training.finetune_learning_rate": 1e-4,
            "advanced.ema_decay": 0.0,
            "training.early_stopping_validations": 2,
        }
    )
    with caplog.at_level(logging.INFO, logger="mrl"):
        result = run_training(config)
    steps = [record for record in _records(result.run_folder) if record["kind"] == "step"]
    epochs = {stage: {record["epoch"] for record in steps if record["stage"] == stage} for stage in (1, 2)}
    assert max(epochs[1]) < 5 and min(epochs[2]) == 6  # stage 1 ended early, stage 2 began at its own epoch
    assert len(epochs[2]) >= 2  # with patience of its own
    assert "Stage 1 ends after" in caplog.text
    records = _records(result.run_folder)
    last_of_1 = max(record["step"] for record in steps if record["stage"] == 1)
    again = run_training(config, resume="auto")  # nothing is left to do, and the ended stage does not begin again
    assert _records(again.run_folder) == records and again.steps > last_of_1

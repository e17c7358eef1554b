"""Settings of stage 2, of the engine and of the start: each changes what it is for, and nothing that it is not for."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrl.backbone.state_hash import state_sha256
from mrl.data import CropDataset, PooledCache
from mrl.distribution import Processes
from mrl.errors import TrainingError
from mrl.pretrained import load_pretrained_redimnet, write_official_checkpoint
from mrl.training import TrainConfig, building, load_config, plan_run, run_training
from mrl.training.building import build_encoder
from mrl.training.config import TrainDataConfig
from mrl.training.data import read_corpus
from mrl.training.logs import MetricsFile
from mrl.training.trainer import Trainer
from tests.backbone.networks import filled_network, small_model_config2
from tests.training.conftest import ConfigFactory
from tests.training.test_config import leaves

# Stage 2 alone, three steps of it.
SHORT: dict[str, Any] = {
    "training.num_epochs": 1,
    "training.batch_size": 4,
    "training.warmup_epochs": 0.0,
    "advanced.freeze_backbone_epochs": 0,
    "advanced.projection_init": "data_free",
    "data.draws_per_speaker": 2,
    "data.validation": {},
}


def _records(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in MetricsFile(folder / "metrics.jsonl").read() if record["kind"] == kind]


def test_settings_of_stage_2_change_its_steps(make_config: ConfigFactory, tmp_path: Path) -> None:
    variants: dict[str, dict[str, Any]] = {
        "nothing": {},
        "rate": {"training.finetune_learning_rate": 5e-3},
        "backbone": {"advanced.backbone_learning_rate_ratio": 1.0},
        "last rate": {"training.final_learning_rate_ratio": 1.0},
        "margin": {"loss.finetune_margin": 0.4},
        "crops": {"data.finetune_crop_seconds": 0.3},
        "statistics": {"advanced.batch_norm_statistics": "update"},
        "pull": {"advanced.teacher_pull": 5.0},
    }
    losses: dict[str, tuple[float, ...]] = {}
    for name, changes in variants.items():
        output = str(tmp_path / name.replace(" ", "-"))
        folder = run_training(
            make_config(**{**SHORT, "training.finetune_learning_rate": 1e-3, **changes, "training.output_dir": output})
        )
        losses[name] = tuple(record["loss"] for record in _records(folder.run_folder, "step"))
    assert all(len(some) == 3 and np.isfinite(some).all() for some in losses.values())
    assert len(set(losses.values())) == len(losses), "some settings have the same losses"
    same_start = {some[0] for name, some in losses.items() if name in ("nothing", "rate", "backbone", "last rate")}
    assert len(same_start) == 1  # a rate has no part in the first loss


def test_when_a_run_validates_and_logs(make_config: ConfigFactory) -> None:
    config = make_config(
        **{
            "training.num_epochs": 4,
            "advanced.freeze_backbone_epochs": 3,
            "training.validate_every_epochs": 2,
            "training.log_every_steps": 2,
        }
    )
    folder = run_training(config).run_folder
    # every second epoch, at the end of a stage, and at the end
    assert [record["epochs_done"] for record in _records(folder, "validation")] == [0, 2, 3, 4]
    assert [record["step"] for record in _records(folder, "step")] == [2, 4, 6, 8, 10, 12]


def test_a_cache_elsewhere_is_shared_by_runs(make_config: ConfigFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"training.num_epochs": 1, "advanced.freeze_backbone_epochs": 1, "advanced.cache_dir": str(tmp_path / "caches")}
    first = run_training(make_config(**settings, **{"training.output_dir": "first"})).run_folder
    assert not (first / "cache").exists()
    (cache,) = (tmp_path / "caches").iterdir()
    shards = {path.name: path.stat().st_mtime_ns for path in cache.glob("*.npy")}
    with monkeypatch.context() as patch:
        patch.setattr("mrl.data.pooled_cache.pooled_in_batches", lambda *_: pytest.fail("computed again"))
        second = run_training(make_config(**settings, **{"training.output_dir": "second"})).run_folder
    assert {path.name: path.stat().st_mtime_ns for path in cache.glob("*.npy")} == shards and shards
    assert _records(first, "step") == _records(second, "step")


def test_a_cache_of_version_0_1_is_used(make_config: ConfigFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It named caches by another hash of the same weights."""
    settings = {"training.num_epochs": 1, "advanced.freeze_backbone_epochs": 1, "advanced.cache_dir": str(tmp_path / "caches")}
    with monkeypatch.context() as patch:
        patch.setattr("mrl.training.starting.state_sha256", lambda module, **_: state_sha256(module, as_cached_by_0_1=True))
        first = run_training(make_config(**settings, **{"training.output_dir": "first"})).run_folder
    with monkeypatch.context() as patch:
        patch.setattr("mrl.data.pooled_cache.pooled_in_batches", lambda *_: pytest.fail("computed again"))
        second = run_training(make_config(**settings, **{"training.output_dir": "second"})).run_folder
    assert len(list((tmp_path / "caches").iterdir())) == 1
    assert _records(first, "step") == _records(second, "step")


def test_workers_change_nothing(make_config: ConfigFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {**SHORT, "data.augmentation.babble_probability": 1.0}
    expected = _records(run_training(make_config(**changes, **{"training.output_dir": "none"})).run_folder, "step")
    # the crops must come from another process
    monkeypatch.setattr(CropDataset, "__getitem__", _in_a_worker(CropDataset.__getitem__))
    settings = {"training.num_workers": 1, "training.output_dir": "one"}
    assert _records(run_training(make_config(**changes, **settings)).run_folder, "step") == expected


def _in_a_worker(original: Any) -> Any:
    import torch.utils.data

    def read(self: CropDataset, draw: Any) -> Any:
        assert torch.utils.data.get_worker_info() is not None
        return original(self, draw)

    return read


def test_a_run_stops_after_too_many_nonfinite_steps(make_config: ConfigFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    read = PooledCache.read
    monkeypatch.setattr(PooledCache, "read", lambda self, views: read(self, views) * (1.0 if len(views) == 20 else np.nan))
    config = make_config(**{"training.max_nonfinite_steps": 1, "data.validation": {}})
    with pytest.raises(TrainingError, match=r"2 steps gave no finite loss.*training\.max_nonfinite_steps is 1"):
        run_training(config)
    assert [record["skipped"] for record in _records(Path(config.training.output_dir), "step")] == [True]


def test_how_long_a_silent_process_is_waited_for(make_config: ConfigFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[datetime.timedelta] = []
    monkeypatch.setattr(Processes, "connect", lambda self, device, *, timeout: waits.append(timeout))
    monkeypatch.setattr(Trainer, "run", lambda self, resume: None)
    run_training(make_config(**{"training.process_timeout_minutes": 1.5}))
    assert waits == [datetime.timedelta(seconds=90)]


def test_the_checkpoint_that_is_asked_for(make_config: ConfigFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    original = building.create_mrl_from_pretrained

    def note(**arguments: Any) -> Any:
        asked.append(arguments)
        return original(**arguments)

    monkeypatch.setattr(building, "create_mrl_from_pretrained", note)
    names = {"advanced.model_name": "M", "advanced.train_type": "ft_mix", "advanced.pretrained_dataset": "vb2+vox2+cnc"}
    config = make_config(**names)
    assert build_encoder(config).embed_dim == 32
    (arguments,) = asked
    assert (arguments["model_name"], arguments["train_type"], arguments["dataset"]) == ("M", "ft_mix", "vb2+vox2+cnc")
    assert arguments["weights"] == config.advanced.weights


def test_a_manifest_with_its_own_root_and_a_choice_of_rows(voices: Path, tmp_path: Path) -> None:
    paths = sorted(path.relative_to(voices) for path in (voices / "train").rglob("*.flac"))
    manifest = tmp_path / "list.csv"
    rows = "".join(f"{path},{path.parent.name},{number % 2}\n" for number, path in enumerate(paths))
    manifest.write_text(f"path,speaker,part\n{rows}")
    corpus = read_corpus(TrainDataConfig(manifest=str(manifest), root=str(voices), where={"part": 1}))
    assert [one.path for one in corpus.utterances] == [voices / path for path in paths[1::2]]
    assert len(corpus.speakers) == 5


ROOT = Path(__file__).resolve().parents[2]
ON_SHARED = ("distil-b0", "demo-model", "from-scratch-b0", "from-scratch-b0-round-2", "real-speech")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_ready_configs_plan_a_run(
    path: Path, voices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The configuration as it is, but with a tiny network; on tiny data where it has none of its own."""
    weights = voices / "tiny.pt"
    if path.stem.startswith("redimnet2"):
        weights = tmp_path / "tiny2.pt"
        write_official_checkpoint(weights, *filled_network(small_model_config2()).to_official())
    monkeypatch.setattr(building, "scratch_backbone", lambda _: load_pretrained_redimnet(weights=weights))
    overrides = [f"advanced.weights={weights}", f"training.output_dir={tmp_path / 'run'}"]
    if path.stem in ON_SHARED:
        request.getfixturevalue("shared")
    else:
        overrides += [f"data.train.folder={voices / 'train'}", f"data.val_dataset={voices / 'validation'}"]
    config = load_config([path], overrides)
    plan = plan_run(config)
    stages = [(1, 0, config.stage_1_epochs)] if config.stage_1_epochs else []
    if config.training.num_epochs > config.stage_1_epochs:
        stages.append((2, config.stage_1_epochs, config.training.num_epochs))
    assert [(one.stage.number, one.stage.first_epoch, one.stage.end_epoch) for one in plan.stages] == stages
    assert plan.validation_trials > 0
    if config.data.train.unlabelled:
        assert plan.chance_level is None and plan.speakers == 0 and plan.utterances == 9648
    else:
        assert plan.chance_level is not None and plan.chance_level > 0
        copies = 1 + len(config.data.speeds)
        assert plan.speakers == copies * (376 if path.stem in ON_SHARED else 5)
    assert not (tmp_path / "run").exists()


def test_the_guide_lists_the_ready_configs_as_they_are() -> None:
    guide = (ROOT / "docs" / "how-to" / "train.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `configs/([^`]+)` \| (\d+) \((\d+|none)\) \|", guide, re.MULTILINE)
    listed = {name: (int(epochs), 0 if frozen == "none" else int(frozen)) for name, epochs, frozen in rows}
    configs = {path.name: load_config([path]) for path in (ROOT / "configs").glob("*.yaml")}
    assert listed == {name: (config.training.num_epochs, config.stage_1_epochs) for name, config in configs.items()}


def test_every_key_is_set_by_some_test() -> None:
    """A guard against forgetting: what a test asserts of a key, only that test can say."""
    paths = [path for room in ("training", "cli") for path in (ROOT / "tests" / room).glob("test_*.py")]
    code = "\n".join(path.read_text() for path in paths if path.name != "test_config.py")  # which reads, and sets nothing
    forgotten = [key for key in leaves(TrainConfig) if key.rsplit(".", 1)[1] not in code]
    assert forgotten == []

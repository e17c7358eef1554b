"""Training from shards: the same run as from files, exact resume in shard order, and which sampler a configuration gives."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mrl.data import ShardSampler, SpeakerBalancedSampler, scan_speaker_folders, write_shards
from mrl.errors import ConfigError, DataError
from mrl.training import run_training
from mrl.training.building import build_sampler
from mrl.training.checkpoints import CheckpointFolder
from mrl.training.data import read_corpus, read_training_data
from mrl.training.logs import MetricsFile
from tests.training.conftest import ConfigFactory, dying_after

SHORT: dict[str, Any] = {"training.num_epochs": 2, "advanced.freeze_backbone_epochs": 1, "data.train": {}}


@pytest.fixture(scope="session")
def shards(voices: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training voices in several shards."""
    folder = tmp_path_factory.mktemp("shards")
    assert len(write_shards(scan_speaker_folders(voices / "train"), folder, shard_megabytes=0.06).index.shards) >= 4
    return folder


def _from_shards(shards: Path, **more: Any) -> dict[str, Any]:
    return {**SHORT, "data.train.shards": str(shards), "data.balance": "shards", "data.shuffle_buffer": 6, **more}


def _last_tensors(folder: Path) -> dict[str, torch.Tensor]:
    latest = CheckpointFolder(folder / "checkpoints", 1).latest()
    assert latest is not None
    return load_file(latest / "state.safetensors")


@pytest.mark.slow
def test_a_run_from_shards_that_dies_resumes_bit_for_bit(make_config: ConfigFactory, shards: Path, tmp_path: Path) -> None:
    changes = _from_shards(
        shards,
        **{
            "training.checkpoint_every_steps": 1,
            "training.batch_size": 4,
            "training.accumulation_steps": 2,
            "data.augmentation.babble_probability": 0.5,
        },
    )
    whole = run_training(make_config(**changes)).run_folder
    records = MetricsFile(whole / "metrics.jsonl").read()
    config = make_config(**changes, **{"training.output_dir": str(tmp_path / "dying")})
    with dying_after(len(records) - 4):  # in the second epoch, after its first step
        run_training(config, resume="auto")
    run_training(config, resume="auto")
    assert MetricsFile(tmp_path / "dying" / "metrics.jsonl").read() == records
    one, other = _last_tensors(whole), _last_tensors(tmp_path / "dying")
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_damaged_shards_do_not_start(make_config: ConfigFactory, shards: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(shards, tmp_path / "copy"))
    victim = copy / "shard-00002.tar"
    victim.write_bytes(victim.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"shard-00002\.tar has .* it is cut off"):
        run_training(make_config(**_from_shards(copy)))


def test_which_sampler_a_configuration_gives(make_config: ConfigFactory, shards: Path) -> None:
    config = make_config(**_from_shards(shards))
    corpus = read_corpus(config.data.train)
    sampler = build_sampler(config, corpus)
    assert isinstance(sampler, ShardSampler) and sampler.shuffle_buffer == 6
    assert corpus.labels == read_training_data(config).corpus.labels
    grouped = build_sampler(make_config(**{"data.crops_per_speaker": 4, "data.draws_per_speaker": 8}), corpus)
    assert isinstance(grouped, SpeakerBalancedSampler) and (grouped.crops_per_speaker, len(grouped)) == (4, 40)
    draws = grouped.epoch(0)
    for first in range(0, 40, 4):  # four utterances per speaker: all of them in each group
        assert Counter(corpus.labels[draw.utterance] for draw in draws[first : first + 4]).most_common(1)[0][1] == 4
        assert len({draw.utterance for draw in draws[first : first + 4]}) == 4
    orders = set()
    for aware in (True, False):
        config = make_config(**{"data.crops_per_speaker": 2, "data.session_aware": aware})
        with_sessions = type(corpus).in_order(
            type(one)(one.path, one.speaker, session=f"v{number % 2}", slice=one.slice)
            for number, one in enumerate(corpus.utterances)
        )
        orders.add(tuple(draw.utterance for draw in build_sampler(config, with_sessions).epoch(0)))
    assert len(orders) == 2


@pytest.mark.slow
def test_groups_train_in_both_stages(make_config: ConfigFactory, shards: Path) -> None:
    changes = {**SHORT, "data.train.shards": str(shards), "data.crops_per_speaker": 2, "training.batch_size": 4}
    folder = run_training(make_config(**changes, **{"training.accumulation_steps": 2})).run_folder
    steps = [record for record in MetricsFile(folder / "metrics.jsonl").read() if record["kind"] == "step"]
    assert [record["epoch"] for record in steps] == [0, 0, 0, 1, 1, 1]  # 20 crops in updates of 8
    assert all(record["loss"] > 0 for record in steps)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.balance": "shards"}, r"balance: shards needs train\.shards"),
        ({"data.crops_per_speaker": 2, "data.balance": "utterances"}, r"crops_per_speaker above 1 needs balance: speakers"),
        (
            {"data.crops_per_speaker": 2, "data.draws_per_speaker": 3},
            r"draws_per_speaker must be a multiple of crops_per_speaker",
        ),
        ({"data.crops_per_speaker": 3}, r"training\.batch_size must be a multiple of data\.crops_per_speaker \(found 8 and 3\)"),
        ({"data.train.shards": "/x"}, r"give folder or shards, not both"),
        ({"data.train": {"shards": "/x", "where": {"a": "b"}}}, r"root and where belong to a manifest; shards are taken whole"),
    ],
)
def test_settings_that_do_not_go_together(make_config: ConfigFactory, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(**changes)

"""Out of memory: which keys to change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrl.errors import TrainingError
from mrl.training import plan_run, run_training
from mrl.training.trainer import out_of_memory_explained
from mrl.training.updates import Updater
from tests.training.conftest import ConfigFactory

CPU = (
    "[enforce fail at alloc_cpu.cpp:125] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "4000000000000 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.mark.parametrize(
    "error", [RuntimeError(CPU), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError()]
)
def test_a_run_out_of_memory_names_the_keys(
    make_config: ConfigFactory, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Updater, "update", full)
    with pytest.raises(TrainingError, match="out of memory: lower") as told:
        run_training(make_config())
    for key in ("batch_size", "accumulation_steps", "gradient_checkpointing", "precision: bf16"):
        assert f"training.{key}" in str(told.value)
    assert "data.crop_seconds" in str(told.value) and "\n" not in str(told.value)


def test_what_the_allocators_themselves_say() -> None:
    with pytest.raises(TrainingError, match="out of memory"), out_of_memory_explained():
        torch.empty(1 << 50)
    with pytest.raises(TrainingError, match="out of memory"), out_of_memory_explained():
        np.empty(1 << 50)
    with pytest.raises(RuntimeError, match="another"), out_of_memory_explained():
        raise RuntimeError("another mistake")


def test_the_plan_follows_batch_and_crops(make_config: ConfigFactory) -> None:
    base = {"advanced.freeze_backbone_epochs": 0, "data.validation": {}, "training.batch_size": 256, "data.crop_seconds": 1.0}
    (plain,) = plan_run(make_config(**base, **{"advanced.cache_max_seconds": 0.5, "training.num_epochs": 1})).stages
    for change, ratio in (
        ({"training.batch_size": 512}, 2.0),
        ({"data.crop_seconds": 2.0}, 2.0),
    ):
        changed = {**base, "advanced.cache_max_seconds": 0.5, "training.num_epochs": 1, **change}
        (other,) = plan_run(make_config(**changed)).stages
        assert other.memory_bytes == pytest.approx(ratio * plain.memory_bytes, rel=0.2), change


@pytest.mark.slow
def test_the_plan_counts_what_recomputation_saves(make_config: ConfigFactory) -> None:
    base = {"advanced.use_pretrained": False, "advanced.model_name": "b0", "data.validation": {}, "training.batch_size": 64}
    base |= {"data.crop_seconds": 0.3, "advanced.cache_max_seconds": 0.3, "data.validation.max_seconds": 0.3}
    (plain,) = plan_run(make_config(**base)).stages
    (less,) = plan_run(make_config(**base, **{"training.gradient_checkpointing": True})).stages
    assert less.memory_bytes < 0.8 * plain.memory_bytes

"""``--dry-run``: open and check everything that a run needs, and say what it would do, without training."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
import weakref
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from mrl.audio import SAMPLE_RATE
from mrl.matryoshka import MatryoshkaLoss
from mrl.training.building import build_encoder, build_sampler, build_system, build_validator, choose_device
from mrl.training.config import TrainConfig
from mrl.training.data import check_separate, read_training_data
from mrl.training.feeds import check_compiler, embed_waveforms
from mrl.training.stages import Stage, plan_stages, uses_cache
from mrl.training.starting import start_figures
from mrl.training.system import TrainingSystem, check_optimised
from mrl.training.teachers import DistillationTeacher
from mrl.training.trainer import out_of_memory_explained
from mrl.training.updates import build_optimizer, check_precision, parameter_groups

# How much memory a piece of work needs at its peak, counted tensor by tensor, on any device.


class PeakMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what tensors hold that operations within the block make, until they are freed, backward passes included.

    What an operation needs within itself is not seen, nor what was there before the block.

    Attributes:
        bytes: the most that was held at one time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes: int = 0
        self._now = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        inputs = {id(storage) for storage in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for storage in _storages(result):
            if id(storage) not in inputs and id(storage) not in self._seen:
                self._note(storage)
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        size, key = storage.nbytes(), id(storage)
        self._seen.add(key)
        self._now += size
        self.bytes = max(self.bytes, self._now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self._now -= size


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in _pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


_BYTES = 4  # of a float32


_CACHE_BYTES = {"float32": 4, "float16": 2}


_TIMED_SIZE = 512  # of the matrices whose product is timed


_MEASURED_BATCHES = (2, 4)


# A CPU's allocator keeps part of what was freed, more so where large and small tensors alternate. Fitted to b0 and b2 on Linux:
# peak memory beyond the program (benchmarks/bench_training.py) over PeakMemory's count was 1.4 to 1.5, recomputing 1.9 to 2.1.
_CPU_ALLOCATOR, _CPU_ALLOCATOR_RECOMPUTING = 1.4, 2.0


# What a run loads that a dry run does not: workspaces of the linear algebra behind head and class means (about 75 MB), libraries
# that draw the curves (25 MB), buffers of checkpoints. Measured for b0 on Linux.
_LOADED_LATER_BYTES = 120_000_000


_READING_SECONDS = 60.0  # of audio per pass over whole recordings


@dataclasses.dataclass(frozen=True)
class StageFigures:
    """What one stage would do.

    Attributes:
        stage: the stage.
        trainable: parameters that it trains.
        steps_per_epoch: optimizer steps.
        memory_bytes: the most that it needs at one time: parameters, optimizer state, averaged and teacher weights, and what
            forward and backward passes of one batch (gradients included) or a pass over whole recordings need.
    """

    stage: Stage
    trainable: int
    steps_per_epoch: int
    memory_bytes: int


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """What a run would do.

    Attributes:
        utterances, speakers: of the training corpus, speed copies included; 0 speakers if they are not known.
        validation_trials: number of validation trials, 0 for none.
        chance_level: loss of a model that knows nothing, None where labels have no part in it.
        cache_bytes: size of the cache of pooled statistics, 0 for none.
        start_utterances: that the head and the first class matrices are fitted to, 0 for a run from scratch.
        start_seconds: about how long that takes once their pooled statistics are there, measured on this machine.
        start_bytes: memory for it.
        program_bytes: main memory that the program itself will hold, libraries and lists of recordings included.
        stages: figures of each stage.
        output_dir: the run folder.
    """

    utterances: int
    speakers: int
    validation_trials: int
    chance_level: float | None
    cache_bytes: int
    start_utterances: int
    start_seconds: float
    start_bytes: int
    program_bytes: int
    stages: list[StageFigures]
    output_dir: str

    def describe(self) -> str:
        """Return the plan as lines of text."""
        whose = f"{self.speakers} speakers (classes)" if self.speakers else "unknown speakers"
        lines = [
            f"Training data: {self.utterances} utterances of {whose}",
            f"Validation: {self.validation_trials} trials"
            if self.validation_trials
            else "Validation: none; the last epoch counts as best",
        ]
        if self.chance_level is not None:
            lines.append(f"Chance-level loss: {self.chance_level:.3f}")
        if self.cache_bytes:
            lines.append(f"Cache of pooled statistics: {_megabytes(self.cache_bytes)} on disk")
        if self.start_utterances:
            lines.append(
                f"Start: head and classes from {self.start_utterances} utterances, about {self.start_seconds:.0f} s and "
                f"{_megabytes(self.start_bytes)} of memory in the first process"
            )
        for figures in self.stages:
            stage = figures.stage
            what = "backbone, head and classes" if stage.trains_backbone else "head and classes"
            lines.append(
                f"Stage {stage.number}: epochs {stage.first_epoch} to {stage.end_epoch - 1}, {what}, "
                f"{figures.trainable} trainable parameters, {figures.steps_per_epoch} steps per epoch, "
                f"about {_megabytes(figures.memory_bytes)} of memory per process"
            )
        lines.append(f"The program itself takes another {_megabytes(self.program_bytes)} of main memory")
        return "\n".join([*lines, f"Run folder: {self.output_dir}"])


def plan_run(config: TrainConfig) -> RunPlan:
    """Open and check data, checkpoint and validation list, and return what a run would do.

    Raises:
        ConfigError, DataError, CheckpointError, DownloadError, InputError, TrainingError: as the run itself would.
    """
    device = choose_device(config.training.device)
    check_precision(config.training.precision, device)
    if config.training.compile:
        check_compiler(device)
    data = read_training_data(config, simulate_rooms=False)
    validator = build_validator(config)
    check_separate(data, validator, allow_overlap=config.data.allow_overlap)
    teacher_dim = None if config.distillation.teacher is None else DistillationTeacher(config, data, device).dim
    system = build_system(config, build_encoder(config), len(data.corpus.speakers), teacher_dim=teacher_dim)
    draws = len(build_sampler(config, data.corpus))
    steps = math.ceil(draws / (config.training.batch_size * config.training.accumulation_steps))
    stages = plan_stages(config)
    program_bytes = _resident_bytes() + _LOADED_LATER_BYTES
    with out_of_memory_explained(), torch.random.fork_rng(devices=[]):
        reading_bytes = _reading_bytes(config, system)
        figures = [_figures(config, stage, system, steps, reading_bytes, _allocator_factor(config, device)) for stage in stages]
    vectors = len(data.corpus) * config.advanced.cache_views
    start_utterances, operations, start_bytes = start_figures(config, data.corpus, system)
    return RunPlan(
        utterances=len(data.corpus),
        speakers=0 if config.data.train.unlabelled else len(data.corpus.speakers),
        validation_trials=0 if validator is None else len(validator.trials),
        chance_level=system.chance_level,
        cache_bytes=vectors * system.encoder.pooled_dim * _CACHE_BYTES[config.advanced.cache_storage]
        if uses_cache(config, stages[0])
        else 0,
        start_utterances=start_utterances,
        start_seconds=operations / _operations_per_second() if operations else 0.0,
        start_bytes=start_bytes,
        program_bytes=program_bytes,
        stages=figures,
        output_dir=config.training.output_dir,
    )


def _figures(
    config: TrainConfig, stage: Stage, system: TrainingSystem, steps: int, reading_bytes: int, allocator: float
) -> StageFigures:
    if stage.trains_backbone:
        system.encoder.unfreeze_backbone()
    else:
        system.encoder.freeze_backbone()
    groups = parameter_groups(system, learning_rate=1.0, backbone_ratio=1.0, weight_decay=0.0)
    trainable = check_optimised(system, build_optimizer(groups, config.training.optimizer))
    states = 2 if config.training.optimizer == "adamw" else 1
    copies = sum(parameter.numel() for parameter in system.encoder.parameters())
    copies *= bool(config.advanced.ema_decay) + system.needs_teacher
    kept = _BYTES * (sum(parameter.numel() for parameter in system.parameters()) + trainable * states + copies)
    few, more = (_step_bytes(config, stage, system, size) for size in _MEASURED_BATCHES)
    slope = (more - few) / (_MEASURED_BATCHES[1] - _MEASURED_BATCHES[0])
    step = more + slope * (config.training.batch_size - _MEASURED_BATCHES[1])
    return StageFigures(stage, trainable, steps, round(kept + allocator * max(step, reading_bytes)))


def _allocator_factor(config: TrainConfig, device: torch.device) -> float:
    if device.type != "cpu":
        return 1.0
    return _CPU_ALLOCATOR_RECOMPUTING if config.training.gradient_checkpointing else _CPU_ALLOCATOR


def _step_bytes(config: TrainConfig, stage: Stage, system: TrainingSystem, batch: int) -> int:
    """Measure what forward and backward passes of a small batch need, gradients included."""
    random = torch.Generator().manual_seed(0)
    labels = torch.zeros(batch, dtype=torch.int64)  # one speaker: some losses compare crops of the same
    # the types of a GPU are measured on the CPU: bf16 stands for both kinds of half precision
    half = config.training.precision != "fp32"
    context = torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext()
    system.train()
    if isinstance(system.loss, MatryoshkaLoss):
        system.loss.dim_dropout = 0.0  # no dim sits out
    system.loss.start_step(0)
    with PeakMemory() as peak:
        with context:
            if uses_cache(config, stage):
                raw = system.encoder.project(torch.randn(batch, system.encoder.pooled_dim, generator=random))
            else:
                audio = torch.randn(batch, round(stage.crop_seconds * SAMPLE_RATE), generator=random) * 0.1
                raw = embed_waveforms(system.encoder, audio, recompute=config.training.gradient_checkpointing)
        teacher = raw.detach() if system.needs_teacher else None
        if system.space is not None:
            teacher = torch.randn(batch, system.space.dim, generator=random)
        system(raw.float(), labels, teacher).total.backward()
    system.zero_grad(set_to_none=True)
    system.eval()
    return int(peak.bytes)


def _reading_bytes(config: TrainConfig, system: TrainingSystem) -> int:
    """Measure what a pass over whole recordings needs, as the cache and validation make them."""
    system.eval()
    seconds = max(config.advanced.cache_max_seconds, config.data.validation.max_seconds)
    audio = torch.randn(max(1, round(_READING_SECONDS / seconds)), round(seconds * SAMPLE_RATE)) * 0.1
    with PeakMemory() as peak, torch.inference_mode():
        system.encoder.pooled_statistics(audio)
    return int(peak.bytes)


def _resident_bytes() -> int:
    """Return what this program holds in main memory now, libraries included; 0 where the system does not say."""
    facts = Path("/proc/self/statm")
    return int(facts.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if facts.is_file() else 0


def _operations_per_second() -> float:
    """Return how many floating-point operations a product of float64 matrices makes in a second here."""
    matrix = torch.ones(_TIMED_SIZE, _TIMED_SIZE, dtype=torch.float64)
    matrix @ matrix  # the first product prepares libraries
    start = time.perf_counter()
    matrix @ matrix
    return 2.0 * _TIMED_SIZE**3 / max(time.perf_counter() - start, 1e-9)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"

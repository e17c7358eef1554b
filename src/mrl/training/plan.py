"""``--dry-run``: everything a run needs is opened and checked, and what it would do is told, without training."""

from __future__ import annotations

import dataclasses
import math

import torch

from mrl.audio import SAMPLE_RATE
from mrl.data import SpeakerBalancedSampler, UtteranceSampler
from mrl.training.building import build_encoder, build_system, build_validator, check_separate, choose_device, read_training_data
from mrl.training.config import TrainConfig
from mrl.training.optimisation import build_optimizer, parameter_groups
from mrl.training.stages import Stage, embed_waveforms, plan_stages
from mrl.training.system import TrainingSystem, check_optimised
from mrl.training.updates import check_precision

_BYTES = 4  # of a float32
_MEASURED_BATCH = 2


@dataclasses.dataclass(frozen=True)
class StageFigures:
    """What one stage would do.

    Attributes:
        stage: the stage.
        trainable: numbers that it trains.
        steps_per_epoch: optimizer steps.
        memory_bytes: parameters, gradients, optimizer state and the activations kept for one backward pass.
    """

    stage: Stage
    trainable: int
    steps_per_epoch: int
    memory_bytes: int


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """What a run would do.

    Attributes:
        utterances, speakers: of the training corpus, speed copies included.
        validation_trials: number of validation trials, 0 for none.
        chance_level: loss of a model that knows nothing.
        cache_bytes: size of the cache of pooled statistics, 0 for none.
        stages: figures of each stage.
        output_dir: the run folder.
    """

    utterances: int
    speakers: int
    validation_trials: int
    chance_level: float
    cache_bytes: int
    stages: list[StageFigures]
    output_dir: str

    def describe(self) -> str:
        """Return the plan as lines of text."""
        lines = [
            f"Training data: {self.utterances} utterances of {self.speakers} speakers (classes)",
            f"Validation: {self.validation_trials} trials"
            if self.validation_trials
            else "Validation: none; the last epoch counts as best",
            f"Chance-level loss: {self.chance_level:.3f}",
        ]
        if self.cache_bytes:
            lines.append(f"Cache of pooled statistics: {_megabytes(self.cache_bytes)} on disk")
        for figures in self.stages:
            stage = figures.stage
            what = "backbone, head and classes" if stage.trains_backbone else "head and classes"
            lines.append(
                f"Stage {stage.number}: epochs {stage.first_epoch} to {stage.end_epoch - 1}, {what}, "
                f"{figures.trainable} trainable parameters, {figures.steps_per_epoch} steps per epoch, "
                f"about {_megabytes(figures.memory_bytes)} of memory"
            )
        return "\n".join([*lines, f"Run folder: {self.output_dir}"])


def plan_run(config: TrainConfig) -> RunPlan:
    """Open and check data, checkpoint and validation list, and return what a run would do.

    Raises:
        ConfigError, DataError, CheckpointError, DownloadError, InputError, TrainingError: as the run itself would.
    """
    check_precision(config.training.precision, choose_device(config.training.device))
    data = read_training_data(config)
    validator = build_validator(config)
    check_separate(data, validator)
    system = build_system(config, build_encoder(config), len(data.corpus.speakers))
    if config.data.balance == "utterances":
        draws = len(UtteranceSampler(data.corpus))
    else:
        draws = len(SpeakerBalancedSampler(data.corpus, draws_per_speaker=config.data.draws_per_speaker))
    steps = math.ceil(draws / (config.training.batch_size * config.training.accumulation_steps))
    stages = plan_stages(config)
    cached = config.advanced.cache_pooled_statistics and not stages[0].trains_backbone
    vectors = len(data.corpus) * config.advanced.cache_views
    return RunPlan(
        utterances=len(data.corpus),
        speakers=len(data.corpus.speakers),
        validation_trials=0 if validator is None else len(validator.trials),
        chance_level=system.loss.chance_level(),
        cache_bytes=vectors * system.encoder.pooled_dim * _BYTES if cached else 0,
        stages=[_figures(config, stage, system, steps) for stage in stages],
        output_dir=config.training.output_dir,
    )


def _figures(config: TrainConfig, stage: Stage, system: TrainingSystem, steps: int) -> StageFigures:
    if stage.trains_backbone:
        system.encoder.unfreeze_backbone()
    else:
        system.encoder.freeze_backbone()
    groups = parameter_groups(system, learning_rate=1.0, backbone_ratio=1.0, weight_decay=0.0)
    trainable = check_optimised(system, build_optimizer(groups, config.training.optimizer))
    states = 2 if config.training.optimizer == "adamw" else 1
    fixed = _BYTES * (sum(parameter.numel() for parameter in system.parameters()) + trainable * (1 + states))
    activations = _activation_bytes(stage, system) * config.training.batch_size / _MEASURED_BATCH
    half = 0.5 if config.training.precision != "fp32" else 1.0
    return StageFigures(stage, trainable, steps, round(fixed + activations * half))


def _activation_bytes(stage: Stage, system: TrainingSystem) -> int:
    """Measure what a backward pass of a small batch keeps; with a frozen backbone that is next to nothing."""
    seen: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    owned = {parameter.untyped_storage().data_ptr() for parameter in system.parameters()}
    audio = (
        torch.randn(_MEASURED_BATCH, round(stage.crop_seconds * SAMPLE_RATE), generator=torch.Generator().manual_seed(0)) * 0.1
    )
    system.train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        raw, _ = embed_waveforms(system.encoder, audio)
        system.loss(raw, torch.arange(_MEASURED_BATCH))
    system.eval()
    return sum(size for pointer, size in seen.items() if pointer not in owned)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"

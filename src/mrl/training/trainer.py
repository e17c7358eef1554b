"""A whole run: start, stages, epochs, validation, checkpoints, resume."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from mrl.data import CropDataset, Draw, PooledCache, SpeakerBalancedSampler, UtteranceSampler, split_updates
from mrl.data.samplers import Sampler
from mrl.errors import CheckpointError, TrainingError
from mrl.matryoshka import ReDimNetMRL
from mrl.progress import progress_bar
from mrl.training import checkpoints
from mrl.training.averaging import WeightAverage
from mrl.training.building import (
    TrainingData,
    build_encoder,
    build_system,
    build_validator,
    check_separate,
    choose_device,
    read_training_data,
)
from mrl.training.checkpoints import CheckpointFolder, TrainingState, load_state
from mrl.training.config import TrainConfig
from mrl.training.config_loading import with_absolute_paths
from mrl.training.distribution import Processes
from mrl.training.interruption import Stopped, StopRequest, stop_on_sigterm
from mrl.training.optimisation import build_optimizer, learning_rate_factor, parameter_groups
from mrl.training.progress_state import Progress
from mrl.training.records import MetricsFile, write_curves, write_environment
from mrl.training.results import save_result
from mrl.training.run_folder import RunFolder
from mrl.training.stages import CachedFeed, Feed, Inputs, Stage, WaveformFeed, plan_stages
from mrl.training.starting import initialise, open_cache
from mrl.training.system import StepLoss, TrainingSystem, check_optimised
from mrl.training.updates import Updater, UpdateReport, check_precision
from mrl.training.validation import ValidationResult, Validator

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """What a run ended with.

    Attributes:
        run_folder: where everything lies; ``run_folder / "best"`` is the model.
        best: error rates of the best model, None without validation.
        start: error rates at step 0, None without validation.
        best_epoch: epochs that were done when the best model was; 0 is the start.
        steps: optimizer steps done.
        interrupted: whether the run was asked to stop and can be resumed.
    """

    run_folder: Path
    best: ValidationResult | None
    start: ValidationResult | None
    best_epoch: int
    steps: int
    interrupted: bool


def run_training(config: TrainConfig, *, resume: str | None = None) -> TrainingResult:
    """Train as the configuration says, in one process or, under torchrun, in several.

    Args:
        config: all settings.
        resume: None begins a new run; ``auto`` goes on with the run in ``training.output_dir``, or begins it if there is none; a
            path to one of its checkpoints goes on from that.

    Raises:
        ConfigError, DataError, CheckpointError, TrainingError: something is missing or wrong, in one line.
    """
    config = with_absolute_paths(config)
    processes = Processes.from_environment()
    device = choose_device(config.training.device, processes.local_rank)
    check_precision(config.training.precision, device)
    processes.connect(device)
    try:
        with stop_on_sigterm() as stop:
            return Trainer(config, device, processes, stop).run(resume)
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            "out of memory: lower training.batch_size (and raise training.accumulation_steps), data.crop_seconds, "
            f"or set training.precision: bf16 ({str(error).splitlines()[0]})"
        ) from error
    finally:
        processes.disconnect()


class Trainer:
    """One run; see :func:`run_training`."""

    def __init__(self, config: TrainConfig, device: torch.device, processes: Processes, stop: StopRequest) -> None:
        self.config = config
        self.device = device
        self.processes = processes
        self.folder = RunFolder(Path(config.training.output_dir))
        self.checkpoints = CheckpointFolder(self.folder.checkpoints, config.training.keep_checkpoints)
        self.metrics = MetricsFile(self.folder.metrics)
        self.stages = plan_stages(config)
        self.progress = Progress()
        self._stop = stop
        self._opened_cache: PooledCache | None = None

    def run(self, resume: str | None) -> TrainingResult:
        """Do what is left of the run."""
        state = self._state_to_resume(resume)
        try:
            self._train(state)
        except Stopped:
            self.progress.interrupted = True
        return self._finish()

    def _train(self, state: TrainingState | None) -> None:
        self.data: TrainingData = read_training_data(self.config)
        self.sampler = self._sampler()
        self.validator: Validator | None = build_validator(self.config)
        check_separate(self.data, self.validator)
        encoder = build_encoder(self.config) if state is None else ReDimNetMRL.from_pretrained(self.folder.start)
        self.system: TrainingSystem = build_system(self.config, encoder, len(self.data.corpus.speakers)).to(self.device)
        self.average = WeightAverage(encoder, self.config.advanced.ema_decay) if self.config.advanced.ema_decay else None
        _LOG.info(
            "%d utterances of %d speakers (classes); chance-level loss %.3f",
            len(self.data.corpus),
            len(self.data.corpus.speakers),
            self.system.loss.chance_level(),
        )
        if state is None:
            self._begin()
        else:
            self._restore(state)
        self.teacher = self._teacher()
        for stage in self.stages:
            if self.progress.epoch < stage.end_epoch and not self._ended:
                self._run_stage(stage, state)

    # --- start and resume

    def _state_to_resume(self, resume: str | None) -> TrainingState | None:
        if resume is None:
            return None
        if resume == "auto":
            latest = self.checkpoints.latest()
            if latest is None:
                _LOG.info("No checkpoint in %s; the run begins anew", self.folder.checkpoints)
                return None
        else:
            latest = Path(resume)
        state = load_state(latest)
        if latest.resolve().parent != self.folder.checkpoints.resolve():
            raise TrainingError(
                f"{latest} is not a checkpoint of the run in {self.folder.root}; set training.output_dir to the run's folder"
            )
        self.folder.check_same(self.config)
        self.progress = Progress.from_dict(state.values["progress"])
        _LOG.info("Resuming %s at epoch %d, step %d", latest, self.progress.epoch, self.progress.step)
        return state

    def _begin(self) -> None:
        """Initialise, save the start, validate it, and save the first checkpoint."""
        torch.manual_seed(self.config.training.seed)
        self.folder.check_new(has_checkpoints=self.checkpoints.latest() is not None)
        self.processes.barrier()
        if self.processes.is_first:
            self.folder.begin(self.config)
            write_environment(self.folder.environment)
        self.processes.barrier()
        encoder = self.system.encoder
        if self.config.advanced.use_pretrained:
            encoder.freeze_backbone()
            initialise(self.config, self.system, self.data.corpus, self._cache() if self._uses_cache(self.stages[0]) else None)
        self.processes.share_state(self.system)
        if self.average is not None:
            self.average = WeightAverage(encoder, self.average.decay)
        if self.processes.is_first:
            checkpoints.replace_folder(self.folder.start, encoder.save_pretrained)
        self._validate()
        self._save(stage=None, updater=None)

    def _restore(self, state: TrainingState) -> None:
        described = self._describe_data()
        if state.values["data"] != described:
            raise TrainingError(
                f"the training data has changed since the checkpoint (then {state.values['data']}, now {described}); "
                "begin a new run"
            )
        try:
            self.system.load_state_dict(checkpoints.without_prefix("system", state.tensors), strict=True)
        except RuntimeError as error:
            raise CheckpointError(f"the checkpoint does not fit this configuration: {' '.join(str(error).split())}") from error
        if self.average is not None:
            averaged = checkpoints.without_prefix("average", state.tensors)
            self.average.state = {name: averaged[name].to(self.device) for name in self.average.state}
            self.average.steps = int(state.values["average_steps"])
        checkpoints.restore_random_state(checkpoints.without_prefix("random", state.tensors))
        if self.processes.is_first:
            self.checkpoints.remove_after(self.progress.step)
            self.metrics.cut_after(self.progress.step, self.progress.epoch)

    def _teacher(self) -> ReDimNetMRL | None:
        if not self.system.needs_teacher:
            return None
        self.processes.barrier()
        with torch.random.fork_rng(devices=[]):  # building draws random weights before it loads the right ones
            teacher = ReDimNetMRL.from_pretrained(self.folder.start)
        return teacher.to(self.device).eval().requires_grad_(False)

    def _describe_data(self) -> dict[str, Any]:
        return self.data.corpus.outline()

    # --- stages

    def _run_stage(self, stage: Stage, state: TrainingState | None) -> None:
        encoder = self.system.encoder
        if stage.trains_backbone:
            if self.config.advanced.use_pretrained and stage.first_epoch == self.progress.epoch and self.progress.position == 0:
                what = "Unfreezing backbone (Stage 1 → Stage 2)" if stage.first_epoch else "Training backbone and head (Stage 2)"
                _LOG.info("Epoch %d: %s", stage.first_epoch, what)
            statistics = self.config.advanced.batch_norm_statistics if self.config.advanced.use_pretrained else "update"
            encoder.unfreeze_backbone(batch_norm_statistics=statistics)
        else:
            encoder.freeze_backbone()
        self.system.train()
        training = self.config.training
        optimizer = build_optimizer(
            parameter_groups(
                self.system,
                learning_rate=stage.learning_rate,
                backbone_ratio=stage.backbone_ratio,
                weight_decay=training.weight_decay,
            ),
            training.optimizer,
        )
        _LOG.info("Stage %d: epochs %d to %d", stage.number, stage.first_epoch, stage.end_epoch - 1)
        check_optimised(self.system, optimizer)
        updater = Updater(
            self.system,
            optimizer,
            processes=self.processes,
            precision=training.precision,
            clip_norm=training.clip_norm,
            max_nonfinite=training.max_nonfinite_steps,
            average=self.average,
            update_buffers=stage.trains_backbone and encoder.batch_norm_statistics == "update",
        )
        updater.nonfinite_steps = self.progress.nonfinite_steps
        if state is not None and state.values["stage"] == stage.number and self.progress.epoch >= stage.first_epoch:
            saved = TrainingState(checkpoints.without_prefix("optimizer", state.tensors), state.values["optimizer"])
            checkpoints.load_optimizer_state(optimizer, saved)
            updater.scaler.load_state_dict(state.values["scaler"])
        feed = self._feed(stage)
        while self.progress.epoch < stage.end_epoch and not self._ended:
            self._run_epoch(stage, updater, feed)

    def _uses_cache(self, stage: Stage) -> bool:
        return not stage.trains_backbone and self.config.advanced.cache_pooled_statistics

    def _cache(self) -> PooledCache:
        if self._opened_cache is None:
            self._opened_cache = open_cache(self.config, self.data, self.system.encoder, self.folder.root, self.processes)
        return self._opened_cache

    def _feed(self, stage: Stage) -> Feed:
        seed = self.config.training.seed
        if self._uses_cache(stage):
            return CachedFeed(self.system.encoder, self._cache(), self.data.corpus.labels, seed=seed)
        crops = CropDataset(self.data.corpus, stage.crop_seconds, seed=seed, augment=self.data.augmenter)
        return WaveformFeed(self.system.encoder, crops, num_workers=self.config.training.num_workers)

    def _sampler(self) -> Sampler:
        seed = self.config.training.seed
        if self.config.data.balance == "utterances":
            return UtteranceSampler(self.data.corpus, seed=seed)
        return SpeakerBalancedSampler(self.data.corpus, seed=seed, draws_per_speaker=self.config.data.draws_per_speaker)

    # --- epochs and steps

    def _updates(self, draws: list[Draw], start: int) -> list[tuple[int, list[list[Draw]]]]:
        training = self.config.training
        return split_updates(
            draws,
            batch_size=training.batch_size,
            accumulation_steps=training.accumulation_steps,
            rank=self.processes.rank,
            world_size=self.processes.world_size,
            start=start,
        )

    def _run_epoch(self, stage: Stage, updater: Updater, feed: Feed) -> None:
        progress = self.progress
        draws = self.sampler.epoch(progress.epoch)
        updates = self._updates(draws, progress.position)
        inputs = feed.read([batch for _, batches in updates for batch in batches])
        name = f"epoch {progress.epoch}"
        with self._stop.deferred(), progress_bar(name, len(draws), unit="crops", enabled=self.processes.is_first) as advance:
            advance(progress.position)
            for crops, batches in updates:
                self.system.loss.set_margin(self._margin(stage, len(draws)))
                factor = self._rate_factor(stage, len(draws))
                losses = self._losses(updater, feed, inputs, len(batches))
                report = updater.update(losses, total_crops=crops, rate_factor=factor)
                progress.count(crops, report.parts["loss"], updater.nonfinite_steps)
                self._record_step(stage, report, factor * stage.learning_rate)
                advance(crops)
                stop = self._stop_everywhere()
                every = self.config.training.checkpoint_every_steps
                # at the end too, so that neither a stop nor a kill during validation loses the epoch
                if stop or progress.position == len(draws) or (every and progress.step % every == 0):
                    self._save(stage, updater)
                if stop:
                    progress.interrupted = True
                    return
        self._end_epoch(stage, updater)

    def _losses(self, updater: Updater, feed: Feed, inputs: Iterator[Inputs], count: int) -> Iterator[tuple[StepLoss, int]]:
        for _ in range(count):
            batch = next(inputs)
            with updater.autocast():
                raw, teacher = feed.embed(batch, self.teacher)
            yield self.system(raw.float(), batch.labels, None if teacher is None else teacher.float()), len(batch.labels)

    def _margin(self, stage: Stage, draws: int) -> float:
        warmup = self.config.loss.margin_warmup_epochs
        done = self.progress.epoch + self.progress.position / draws
        return stage.margin * min(1.0, done / warmup) if warmup else stage.margin

    def _rate_factor(self, stage: Stage, draws: int) -> float:
        training = self.config.training
        together = training.batch_size * training.accumulation_steps * self.processes.world_size
        per_epoch = math.ceil(draws / together)
        step = (self.progress.epoch - stage.first_epoch) * per_epoch + self.progress.position // together
        return learning_rate_factor(
            step,
            total_steps=per_epoch * stage.epochs,
            warmup_steps=round(training.warmup_epochs * per_epoch),
            schedule=training.schedule,
            final_ratio=training.final_learning_rate_ratio,
        )

    def _record_step(self, stage: Stage, report: UpdateReport, rate: float) -> None:
        if report.skipped:
            _LOG.warning(
                "Step %d skipped: loss or gradient is not finite (%d so far)", self.progress.step, self.progress.nonfinite_steps
            )
        if self.processes.is_first and (self.progress.step % self.config.training.log_every_steps == 0 or report.skipped):
            self.metrics.append(
                {
                    "kind": "step",
                    "step": self.progress.step,
                    "epoch": self.progress.epoch,
                    "stage": stage.number,
                    "learning_rate": rate,
                    "gradient_norm": report.gradient_norm,
                    "skipped": report.skipped,
                    **report.parts,
                }
            )

    def _end_epoch(self, stage: Stage, updater: Updater) -> None:
        progress = self.progress
        epoch, mean_loss = progress.epoch, progress.mean_loss
        progress.next_epoch()
        _LOG.info("Epoch %d: loss %.4f (chance level %.3f)", epoch, mean_loss, self.system.loss.chance_level())
        if self.processes.is_first:
            self.metrics.append(
                {
                    "kind": "epoch",
                    "step": progress.step,
                    "epoch": epoch,
                    "epochs_done": progress.epoch,
                    "stage": stage.number,
                    "loss": mean_loss,
                    "nonfinite_steps": progress.nonfinite_steps,
                }
            )
        last = progress.epoch == self.config.training.num_epochs or progress.epoch == stage.end_epoch
        if last or progress.epoch % self.config.training.validate_every_epochs == 0:
            self._validate()
        self._save(stage, updater)

    @property
    def _ended(self) -> bool:
        patience = self.config.training.early_stopping_validations
        return self.progress.interrupted or (patience is not None and self.progress.validations_without_best >= patience)

    def _stop_everywhere(self) -> bool:
        if self.processes.world_size == 1:
            return self._stop.requested
        return bool(self.processes.sum_(torch.tensor(float(self._stop.requested), device=self.device)).item() > 0)

    # --- validation and saving

    def _validate(self) -> None:
        """Validate the averaged weights in process 0, keep them if they are the best so far, tell the others."""
        progress = self.progress
        if self.processes.is_first:
            encoder = self.system.encoder
            if self.average is None:
                self._validate_as_is(encoder)
            else:
                with self.average.applied_to(encoder):
                    self._validate_as_is(encoder)
            write_curves(self.folder.curves, self.metrics.read())
        waited = torch.tensor(float(progress.validations_without_best if self.processes.is_first else 0), device=self.device)
        progress.validations_without_best = int(self.processes.sum_(waited).item())

    def _validate_as_is(self, encoder: ReDimNetMRL) -> None:
        progress = self.progress
        if self.validator is None:
            progress.note_unvalidated()
            save_result(self.folder.best, encoder, self._facts(None), official=not self.config.advanced.use_pretrained)
            return
        result = self.validator.evaluate(encoder)
        is_best = progress.note(result)
        listed = "  ".join(f"{dim}: {100 * eer:.2f}" for dim, eer in result.eer.items())
        _LOG.info(
            "Validation after %d epochs, EER %% per dim  %s%s", progress.epoch, listed, "  (best so far)" if is_best else ""
        )
        self.metrics.append(
            {
                "kind": "validation",
                "step": progress.step,
                "epochs_done": progress.epoch,
                "best": is_best,
                "relative_eer": progress.relative_to_start(result),
                **result.to_dict(),
            }
        )
        save_result(self.folder.last, encoder, self._facts(result), official=False)
        if is_best:
            save_result(self.folder.best, encoder, self._facts(result), official=not self.config.advanced.use_pretrained)

    def _facts(self, result: ValidationResult | None) -> dict[str, Any]:
        return {
            "epochs": self.progress.epoch,
            "steps": self.progress.step,
            "training_utterances": len(self.data.original),
            "training_speakers": len(self.data.original.speakers),
            "validation": None if result is None else result.to_dict(),
            "validation_trials": self.config.data.validation.trials or self.config.data.validation.folder,
        }

    def _save(self, stage: Stage | None, updater: Updater | None) -> None:
        if self.processes.is_first:
            tensors = checkpoints.prefixed("system", self.system.state_dict())
            tensors |= checkpoints.prefixed("random", checkpoints.random_state())
            values: dict[str, Any] = {
                "stage": None if stage is None else stage.number,
                "progress": self.progress.to_dict(),
                "data": self._describe_data(),
                "average_steps": 0,
                "optimizer": {},
                "scaler": {},
            }
            if self.average is not None:
                tensors |= checkpoints.prefixed("average", self.average.state)
                values["average_steps"] = self.average.steps
            if updater is not None:
                optimizer = checkpoints.optimizer_state(updater.optimizer)
                tensors |= checkpoints.prefixed("optimizer", optimizer.tensors)
                values |= {"optimizer": optimizer.values, "scaler": updater.scaler.state_dict()}
            self.checkpoints.save(self.progress.step, TrainingState(tensors, values))
        self.processes.barrier()

    def _finish(self) -> TrainingResult:
        progress = self.progress
        if progress.interrupted:
            _LOG.warning(
                "Asked to stop at epoch %d, step %d; everything is saved: go on with --resume auto", progress.epoch, progress.step
            )
        elif progress.best is not None and progress.best_epoch == 0 and progress.step:
            _LOG.warning(
                "No epoch was better than the start by the rule of mrl.training.validation; best/ is the model of step 0"
            )
        elif (
            progress.best is not None
            and self.config.stage_1_epochs
            and 0 < progress.best_epoch <= self.config.stage_1_epochs < progress.epoch
        ):
            _LOG.warning("Stage 2 gave nothing better than stage 1; best/ is the model after epoch %d", progress.best_epoch - 1)
        return TrainingResult(
            self.folder.root, progress.best, progress.start, progress.best_epoch, progress.step, progress.interrupted
        )

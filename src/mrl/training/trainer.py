"""A whole run: start, stages, end."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
from collections.abc import Iterator
from pathlib import Path

import torch

from mrl.data import CropDataset, PooledCache
from mrl.data.crops import Replacements
from mrl.distribution import Processes
from mrl.errors import TrainingError
from mrl.matryoshka import ReDimNetMRL
from mrl.matryoshka.saving import CONFIG
from mrl.training.building import build_encoder, build_sampler, build_system, build_validator, choose_device
from mrl.training.checkpoints import CheckpointFolder, Progress, TrainingState
from mrl.training.config import TrainConfig
from mrl.training.config_loading import with_absolute_paths
from mrl.training.data import check_separate, read_training_data
from mrl.training.epochs import EpochLoop
from mrl.training.feeds import CachedFeed, Feed, WaveformFeed, check_compiler
from mrl.training.folders import RunFolder, replace_folder
from mrl.training.logs import RunLog, write_environment
from mrl.training.resuming import StateKeeper, find_state, restore_updater
from mrl.training.run import Run, Selection, Stopped, StopRequest, stop_on_sigterm
from mrl.training.stages import Stage, plan_stages, uses_cache
from mrl.training.starting import clean_statistics, initialise, open_cache
from mrl.training.system import check_optimised
from mrl.training.teachers import DistillationTeacher
from mrl.training.updates import Updater, WeightAverage, build_optimizer, check_precision, parameter_groups
from mrl.training.validation import ValidationResult

# Out of memory: say which keys of the configuration make a run smaller.


# torch has a class of its own for GPUs only; its CPU and Apple allocators raise a plain RuntimeError.
_ALLOCATOR_WORDS = ("DefaultCPUAllocator", "can't allocate memory", "not enough memory", "out of memory")


@contextlib.contextmanager
def out_of_memory_explained() -> Iterator[None]:
    """Turn an allocator's error within the block into one that names the keys to change.

    Raises:
        TrainingError: the block ran out of memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise TrainingError(
            "out of memory: lower training.batch_size (and raise training.accumulation_steps by as much: their product may stay "
            "the same on resume), set training.gradient_checkpointing: true or training.precision: bf16, lower data.crop_seconds "
            f"or data.finetune_crop_seconds, or take a smaller advanced.model_name ({_first_line(error)})"
        ) from error


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(words in str(error) for words in _ALLOCATOR_WORDS)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """What a run ended with.

    Attributes:
        run_folder: holds everything; ``run_folder / "best"`` is the model.
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
        resume: None begins a new run; ``auto`` resumes the run in ``training.output_dir``, or begins it if there is none; a
            path to one of its checkpoints resumes from that.

    Raises:
        ConfigError, DataError, CheckpointError, TrainingError: something is missing or wrong, in one line.
    """
    config = with_absolute_paths(config)
    processes = Processes.from_environment()
    device = choose_device(config.training.device, processes)
    check_precision(config.training.precision, device)
    if config.training.compile:
        check_compiler(device)
    processes.connect(device, timeout=datetime.timedelta(minutes=config.training.process_timeout_minutes))
    try:
        with stop_on_sigterm() as stop, out_of_memory_explained():
            return Trainer(config, device, processes, stop).run(resume)
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
        self.stages = plan_stages(config)
        self.progress = Progress()
        self._log = RunLog(config, self.folder, writes=processes.is_first)
        self._stop = stop
        self._opened_cache: PooledCache | None = None
        self._distillation: DistillationTeacher | None = None

    def run(self, resume: str | None) -> TrainingResult:
        """Do what is left of the run.

        Raises:
            TrainingError: another process is training in the same folder.
        """
        with contextlib.ExitStack() as stack:
            if self.processes.is_first:
                stack.enter_context(self.folder.locked())
            return self._run(resume)

    def _run(self, resume: str | None) -> TrainingResult:
        try:
            self._resume_or_begin(resume)
        except Stopped:
            self.progress.interrupted = True
        finally:
            self._log.close()
        return self._finish()

    def _resume_or_begin(self, resume: str | None) -> None:
        if self.processes.is_first:
            self.folder.recover()
        self.processes.barrier()
        state = find_state(resume, self.config, self.folder, self.checkpoints, world_size=self.processes.world_size)
        if state is None:
            self.folder.check_new(has_checkpoints=self.checkpoints.latest() is not None)
        else:
            self.progress = Progress.from_dict(state.values["progress"])
            _LOG.info("The run resumes at epoch %d, step %d", self.progress.epoch, self.progress.step)
        self._train(state)

    def _train(self, state: TrainingState | None) -> None:
        data = read_training_data(self.config)
        sampler = build_sampler(self.config, data.corpus)
        validator = build_validator(self.config)
        check_separate(data, validator, allow_overlap=self.config.data.allow_overlap)
        encoder = build_encoder(self.config) if state is None else ReDimNetMRL.from_pretrained(self.folder.start)
        if self.config.distillation.teacher is not None:
            self._distillation = DistillationTeacher(self.config, data, self.device)
        taught = self._distillation
        system = build_system(
            self.config, encoder, len(data.corpus.speakers), teacher_dim=None if taught is None else taught.dim
        ).to(self.device)
        average = WeightAverage(encoder, self.config.advanced.ema_decay) if self.config.advanced.ema_decay else None
        run = Run(
            self.config, self.device, self.processes, self.folder, self.progress, self._log, data, system, average, validator
        )
        keeper, selection = StateKeeper(run, self.checkpoints), Selection(run)
        chance = "no labels" if system.chance_level is None else f"chance-level loss {system.chance_level:.3f}"
        whose = "unknown speakers" if self.config.data.train.unlabelled else f"{len(data.corpus.speakers)} speakers (classes)"
        _LOG.info("%d utterances of %s; %s", len(data.corpus), whose, chance)
        if taught is not None:
            taught.prepare(
                self.folder.root, self.processes, cached_views=any(uses_cache(self.config, each) for each in self.stages)
            )
        if state is None:
            self._begin(run)
            selection.validate()
            keeper.save(stage=None, updater=None)
        else:
            keeper.restore(state)
        epochs = EpochLoop(run, sampler, self._teacher(run), keeper, selection.validate, self._stop)
        for stage in self.stages:
            if self.progress.epoch < stage.end_epoch and not self.progress.interrupted:
                self._train_stage(run, stage, epochs, state)

    # --- start

    def _begin(self, run: Run) -> None:
        """Initialise head and class matrices, and save the start."""
        torch.manual_seed(self.config.training.seed)
        self.processes.barrier()
        if self.processes.is_first:
            self.folder.begin(self.config)
            write_environment(self.folder.environment)
        run.log.begin()
        self.processes.barrier()
        encoder = run.encoder
        if self._distillation is not None and self.processes.is_first:
            self._distillation.fit(run.system)  # the others are given it with the state
        if self.config.advanced.use_pretrained:
            encoder.freeze_backbone()
            cache = self._cache(run) if uses_cache(self.config, self.stages[0]) else None
            targets = None if self._distillation is None else self._distillation.targets_in(run.system)
            with clean_statistics(self.config, run.data, encoder, self.folder.root, self.processes, cache) as statistics:
                if self.processes.is_first:
                    initialise(self.config, run.system, statistics, self._keep_teacher, targets)
                self.processes.barrier()
        self.processes.share_state(run.system)
        if run.average is not None:
            run.average = WeightAverage(encoder, run.average.decay)
        if self.processes.is_first:
            replace_folder(self.folder.start, encoder.save_pretrained)

    def _keep_teacher(self, encoder: ReDimNetMRL) -> None:
        replace_folder(self.folder.teacher, encoder.save_pretrained)

    def _teacher(self, run: Run) -> ReDimNetMRL | None:
        if not run.system.needs_teacher or self._distillation is not None:
            return None  # another network's embeddings come with the batches
        self.processes.barrier()
        with torch.random.fork_rng(devices=[]):  # building draws random weights before it loads the right ones
            own = self.config.advanced.teacher_init is not None
            teacher = ReDimNetMRL.from_pretrained(self.folder.teacher if own else self.folder.start)
        return teacher.to(self.device).eval().requires_grad_(False)

    # --- stages

    def _train_stage(self, run: Run, stage: Stage, epochs: EpochLoop, state: TrainingState | None) -> None:
        """Train what is left of a stage; where its patience ends early, the next stage begins at once."""
        progress, resumed = self.progress, state is not None and state.values["stage"] == stage.number
        if not resumed:
            progress.validations_without_best = 0  # patience belongs to a stage
        if not self._out_of_patience:
            updater = self._begin_stage(run, stage, state)
            with contextlib.closing(self._feed(run, stage)) as feed:
                while progress.epoch < stage.end_epoch and not (progress.interrupted or self._out_of_patience):
                    epochs.train_epoch(stage, updater, feed)
        if self._out_of_patience and not progress.interrupted and progress.epoch < stage.end_epoch:
            what = f"{progress.validations_without_best} validations without a new best"
            if stage is self.stages[-1]:
                _LOG.info("The run ends after %d epochs: %s", progress.epoch, what)
            else:
                _LOG.info("Stage %d ends after %d epochs: %s", stage.number, progress.epoch, what)
                progress.skip_to(stage.end_epoch)

    def _begin_stage(self, run: Run, stage: Stage, state: TrainingState | None) -> Updater:
        """Freeze or unfreeze the backbone, and return the optimizer's side of the stage, resumed where it was interrupted."""
        encoder, training, advanced = run.encoder, self.config.training, self.config.advanced
        if stage.trains_backbone:
            if advanced.use_pretrained and stage.first_epoch == self.progress.epoch and self.progress.position == 0:
                what = "Unfreezing backbone (Stage 1 → Stage 2)" if stage.first_epoch else "Training backbone and head (Stage 2)"
                _LOG.info("Epoch %d: %s", stage.first_epoch, what)
            encoder.unfreeze_backbone(
                batch_norm_statistics=advanced.batch_norm_statistics if advanced.use_pretrained else "update"
            )
        else:
            encoder.freeze_backbone()
        run.system.train()
        optimizer = build_optimizer(
            parameter_groups(
                run.system,
                learning_rate=stage.learning_rate,
                backbone_ratio=stage.backbone_ratio,
                weight_decay=training.weight_decay,
                class_decay_ratio=training.class_weight_decay_ratio,
            ),
            training.optimizer,
        )
        _LOG.info("Stage %d: epochs %d to %d", stage.number, stage.first_epoch, stage.end_epoch - 1)
        check_optimised(run.system, optimizer)
        updater = Updater(
            run.system,
            optimizer,
            processes=self.processes,
            precision=training.precision,
            clip_norm=training.clip_norm,
            max_nonfinite=training.max_nonfinite_steps,
            average=run.average,
            update_buffers=encoder.updates_statistics,
        )
        updater.nonfinite_steps = self.progress.nonfinite_steps
        if state is not None and state.values["stage"] == stage.number and self.progress.epoch >= stage.first_epoch:
            restore_updater(updater, state)
        return updater

    def _cache(self, run: Run) -> PooledCache:
        if self._opened_cache is None:
            self._opened_cache = open_cache(self.config, run.data, run.encoder, self.folder.root, self.processes)
        return self._opened_cache

    def _feed(self, run: Run, stage: Stage) -> Feed:
        seed = self.config.training.seed
        replacements = Replacements(run.data.corpus, seed=seed, excluded=run.data.excluded)
        if uses_cache(self.config, stage):
            return CachedFeed(
                run.encoder,
                self._cache(run),
                run.data.corpus.labels,
                seed=seed,
                replacements=replacements,
                read_ahead_bytes=self.config.advanced.cache_read_ahead_megabytes * 1_000_000,
                teacher=None if self._distillation is None else self._distillation.of_views,
            )
        make = CropDataset if self._distillation is None else self._distillation.crops
        crops = make(run.data.corpus, stage.crop_seconds, seed=seed, augment=run.data.augmenter, replacements=replacements)
        training = self.config.training
        return WaveformFeed(
            run.encoder,
            crops,
            num_workers=training.num_workers,
            teacher=None if self._distillation is None else self._distillation.of_batch,
            compile_network=training.compile,
            recompute=training.gradient_checkpointing,
        )

    # --- end

    @property
    def _out_of_patience(self) -> bool:
        patience = self.config.training.early_stopping_validations
        return patience is not None and self.progress.validations_without_best >= patience

    def _finish(self) -> TrainingResult:
        progress = self.progress
        if progress.interrupted and self.checkpoints.latest() is None:
            _LOG.warning("Asked to stop before anything was trained; the next start is a new run (with --resume auto, too)")
        elif progress.interrupted:
            _LOG.warning(
                "Asked to stop at epoch %d, step %d; everything is saved: resume with --resume auto",
                progress.epoch,
                progress.step,
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
        if not progress.interrupted and self.processes.is_first and not (self.folder.best / CONFIG).is_file():
            raise TrainingError(
                f"the run in {self.folder.root} is finished, but its model {self.folder.best} is gone: put it back, take "
                f"{self.folder.last} if the last model will do, or train again into another folder"
            )
        return TrainingResult(
            self.folder.root, progress.best, progress.start, progress.best_epoch, progress.step, progress.interrupted
        )

"""What all parts of one run share."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from mrl.data import Draw, split_updates
from mrl.data.samplers import Sampler
from mrl.distribution import Processes
from mrl.errors import CheckpointError, TrainingError
from mrl.matryoshka import ReDimNetMRL
from mrl.pretrained import write_official_checkpoint
from mrl.progress import progress_bar
from mrl.training import checkpoints
from mrl.training.checkpoints import CheckpointFolder, Progress, TrainingState, load_state
from mrl.training.config import TrainConfig
from mrl.training.data import TrainingData
from mrl.training.folders import RunFolder, replace_folder
from mrl.training.logs import RunLog, write_curves
from mrl.training.stages import Feed, Inputs, Stage
from mrl.training.system import StepLoss, TrainingSystem
from mrl.training.updates import Updater, UpdateReport, WeightAverage, learning_rate_factor, warmup_steps
from mrl.training.validation import ValidationResult, Validator

# SIGTERM, as schedulers send it before they take a machine away.
#
# Between optimizer steps it becomes a wish that the loop grants after saving. Elsewhere (while the cache is computed, or
# during validation) the run stops at once: whatever is written there is written whole or not at all, and the next run goes on
# from it.


EXIT_INTERRUPTED = 75
"""Exit status of a run that was asked to stop (SIGTERM), saved everything and can be resumed (EX_TEMPFAIL of sysexits.h)."""


class Stopped(BaseException):
    """The run was asked to stop at a place where nothing is left to save; not an error, hence no Exception."""


class StopRequest:
    """Whether somebody has asked the run to stop."""

    def __init__(self) -> None:
        self.requested = False
        self._deferring = False

    def ask(self) -> None:
        """Note the wish to stop.

        Raises:
            Stopped: not within :meth:`deferred`.
        """
        self.requested = True
        if not self._deferring:
            raise Stopped

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """While the block runs, a request only sets :attr:`requested`; the block looks at it where it can save."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False


@contextlib.contextmanager
def stop_on_sigterm() -> Iterator[StopRequest]:
    """Yield a request that SIGTERM makes while the block runs; outside the main thread signals cannot be caught, so none is."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    process = os.getpid()

    def note(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a worker that was forked has nothing to save
            os._exit(128 + number)
        request.ask()

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)


# The model that a run leaves behind.


OFFICIAL_NAME = "official.pt"


def save_result(folder: Path, encoder: ReDimNetMRL, facts: dict[str, Any], *, official: bool) -> None:
    """Write a model folder, replacing an earlier one.

    Args:
        folder: as ``ReDimNetMRL.from_pretrained`` reads it.
        encoder: the model.
        facts: on its training, for the model card.
        official: also write ``official.pt``, the full embedding's network in the format of the released checkpoints, so that a
            model trained from scratch can be a pretrained one.

    Raises:
        TrainingError: the disk is full; the earlier folder is as it was.
    """

    def write(temporary: Path) -> None:
        encoder.save_pretrained(temporary, training=facts)
        if official:
            write_official_checkpoint(temporary / OFFICIAL_NAME, *encoder.to_backbone().to_official())

    replace_folder(folder, write)


@dataclasses.dataclass
class Run:
    """One run.

    Attributes:
        config: all settings.
        device: where the network lies.
        processes: this process among all.
        folder: paths of what the run writes.
        progress: how far it is; changes at every step.
        log: where losses and error rates go.
        data: what is trained on.
        system: encoder and losses.
        average: moving average of the encoder's weights, None for none.
        validator: None without validation.
    """

    config: TrainConfig
    device: torch.device
    processes: Processes
    folder: RunFolder
    progress: Progress
    log: RunLog
    data: TrainingData
    system: TrainingSystem
    average: WeightAverage | None
    validator: Validator | None

    @property
    def encoder(self) -> ReDimNetMRL:
        """The Matryoshka model in training."""
        return self.system.encoder

    def describe_data(self) -> dict[str, Any]:
        """Return what a resumed run must find unchanged."""
        return self.data.corpus.outline()


# From a run to a checkpoint, and from a checkpoint back to the run.


_LOG = logging.getLogger(__name__)


_NEEDED = ("stage", "progress", "data", "average_steps", "optimizer", "scaler")


def find_state(
    resume: str | None, config: TrainConfig, folder: RunFolder, saved: CheckpointFolder, *, world_size: int = 1
) -> TrainingState | None:
    """Return the checkpoint to go on from, or None where the run begins anew.

    Args:
        resume: None, ``auto`` or the path of a checkpoint, see :func:`mrl.training.run_training`.
        config: all settings; those of the interrupted run must give the same results.
        folder: of the run.
        saved: its checkpoints.
        world_size: number of processes that go on; may be another one than before.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        TrainingError: it is of another run or other settings.
    """
    if resume is None:
        return None
    if resume == "auto":
        found = saved.newest_good()
        if found is None:
            _LOG.info("No checkpoint in %s; the run begins anew", folder.checkpoints)
            return None
        latest, state = found
    else:
        latest = Path(resume)
        state = load_state(latest)
    missing = [key for key in _NEEDED if key not in state.values]
    if missing:
        raise CheckpointError(f"checkpoint {latest} lacks {', '.join(missing)}; resume from another one in {latest.parent}")
    if latest.resolve().parent != folder.checkpoints.resolve():
        raise TrainingError(
            f"{latest} is not a checkpoint of the run in {folder.root}; set training.output_dir to the run's folder"
        )
    before, now = state.values.get("global_batch"), global_batch(config, world_size)
    folder.check_same(config, same_global_batch=before == now)
    _LOG.info("Resuming %s", latest)
    if before not in (None, now):
        _LOG.warning(
            "An optimizer step now takes %d crops (before: %d), because the number of processes has changed; for the same steps "
            "as before change training.batch_size or training.accumulation_steps so that the product stays the same",
            now,
            before,
        )
    return state


def global_batch(config: TrainConfig, world_size: int) -> int:
    """Return how many crops make one optimizer step, of all processes together."""
    return config.training.batch_size * config.training.accumulation_steps * world_size


class StateKeeper:
    """Saves and restores everything that the next step of a run depends on."""

    def __init__(self, run: Run, saved: CheckpointFolder) -> None:
        self._run = run
        self._saved = saved

    def save(self, stage: Stage | None, updater: Updater | None) -> None:
        """Write a checkpoint from the first process; all wait for it.

        Raises:
            TrainingError: it cannot be written; says which earlier one is intact.
        """
        run = self._run
        if run.processes.is_first:
            run.log.flush()  # what is logged must not be younger than the checkpoint
            tensors = checkpoints.prefixed("system", run.system.state_dict())
            tensors |= checkpoints.prefixed("random", checkpoints.random_state())
            values: dict[str, Any] = {
                "stage": None if stage is None else stage.number,
                "progress": run.progress.to_dict(),
                "data": run.describe_data(),
                "global_batch": global_batch(run.config, run.processes.world_size),
                "average_steps": 0,
                "optimizer": {},
                "scaler": {},
            }
            if run.average is not None:
                tensors |= checkpoints.prefixed("average", run.average.state)
                values["average_steps"] = run.average.steps
            if updater is not None:
                optimizer = checkpoints.optimizer_state(updater.optimizer)
                tensors |= checkpoints.prefixed("optimizer", optimizer.tensors)
                values |= {"optimizer": optimizer.values, "scaler": updater.scaler.state_dict()}
            self._saved.save(run.progress.step, TrainingState(tensors, values))
        run.processes.barrier()

    def restore(self, state: TrainingState) -> None:
        """Give the run the state of a checkpoint, and remove what it wrote later.

        Raises:
            TrainingError: the data has changed since.
            CheckpointError: the checkpoint is of another network.
        """
        run = self._run
        described = run.describe_data()
        if state.values["data"] != described:
            raise TrainingError(
                f"the training data has changed since the checkpoint (then {state.values['data']}, now {described}); "
                "begin a new run"
            )
        try:
            run.system.load_state_dict(checkpoints.without_prefix("system", state.tensors), strict=True)
        except RuntimeError as error:
            raise CheckpointError(f"the checkpoint does not fit this configuration: {' '.join(str(error).split())}") from error
        if run.average is not None:
            averaged = checkpoints.without_prefix("average", state.tensors)
            run.average.state = {name: averaged[name].to(run.device) for name in run.average.state}
            run.average.steps = int(state.values["average_steps"])
        checkpoints.restore_random_state(checkpoints.without_prefix("random", state.tensors))
        if run.processes.is_first:
            self._saved.remove_after(run.progress.step)
        run.log.resume(run.progress.step, run.progress.epoch)


def restore_updater(updater: Updater, state: TrainingState) -> None:
    """Give optimizer and gradient scaler the state of a checkpoint of the same stage.

    Raises:
        CheckpointError: the state is of other parameters.
    """
    saved = TrainingState(checkpoints.without_prefix("optimizer", state.tensors), state.values["optimizer"])
    checkpoints.load_optimizer_state(updater.optimizer, saved)
    updater.scaler.load_state_dict(state.values["scaler"])


# Validation in the course of a run, and the model folders ``best/`` and ``last/`` that follow from it.


class Selection:
    """Keeps the best model of a run by the rule of :mod:`mrl.training.validation`."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def validate(self) -> None:
        """Validate the averaged weights in all processes together; the first keeps them if they are the best so far.

        Raises:
            DataError, AudioLoadingError: see :meth:`mrl.training.validation.Validator.evaluate`.
            TrainingError: a model folder cannot be written.
        """
        run = self._run
        if run.average is None:
            self._validate_as_is(run.encoder)
        else:
            with run.average.applied_to(run.encoder):
                self._validate_as_is(run.encoder)
        if run.processes.is_first:
            write_curves(run.folder.curves, run.log.read())
        waited = torch.tensor(float(run.progress.validations_without_best if run.processes.is_first else 0), device=run.device)
        run.progress.validations_without_best = int(run.processes.sum_(waited).item())

    def _validate_as_is(self, encoder: ReDimNetMRL) -> None:
        run = self._run
        official = not run.config.advanced.use_pretrained
        if run.validator is None:
            run.progress.note_unvalidated()
            if run.processes.is_first:
                save_result(run.folder.best, encoder, self._facts(None), official=official)
            return
        result = run.validator.evaluate(encoder, run.processes)
        if result is None:
            return  # not the first process
        is_best = run.progress.note(result)
        listed = "  ".join(f"{dim}: {100 * eer:.2f}" for dim, eer in result.eer.items())
        _LOG.info(
            "Validation after %d epochs, EER %% per dim  %s%s", run.progress.epoch, listed, "  (best so far)" if is_best else ""
        )
        run.log.append(
            {
                "kind": "validation",
                "step": run.progress.step,
                "epochs_done": run.progress.epoch,
                "best": is_best,
                "relative_eer": run.progress.relative_to_start(result),
                **result.to_dict(),
            }
        )
        save_result(run.folder.last, encoder, self._facts(result), official=False)
        if is_best:
            save_result(run.folder.best, encoder, self._facts(result), official=official)

    def _facts(self, result: ValidationResult | None) -> dict[str, Any]:
        run = self._run
        return {
            "epochs": run.progress.epoch,
            "steps": run.progress.step,
            "training_utterances": len(run.data.original),
            "training_speakers": None if run.config.data.train.unlabelled else len(run.data.original.speakers),
            "validation": None if result is None else result.to_dict(),
            "validation_trials": run.config.data.validation.trials or run.config.data.validation.folder,
        }


# One epoch: batches in order, one update after the other, and what is noted and saved on the way.


class EpochLoop:
    """Trains epochs of a run.

    Args:
        run: the run.
        sampler: says which utterances are drawn in which order.
        teacher: the start model where a loss needs it.
        keeper: saves checkpoints.
        validate: called after the epochs that are to be validated.
        stop: whether somebody has asked the run to stop.
    """

    def __init__(
        self,
        run: Run,
        sampler: Sampler,
        teacher: ReDimNetMRL | None,
        keeper: StateKeeper,
        validate: Callable[[], None],
        stop: StopRequest,
    ) -> None:
        self._run = run
        self._sampler = sampler
        self._teacher = teacher
        self._keeper = keeper
        self._validate = validate
        self._stop = stop

    def train_epoch(self, stage: Stage, updater: Updater, feed: Feed) -> None:
        """Train what is left of the current epoch, validate and save; on a wish to stop save and return at once."""
        run, progress = self._run, self._run.progress
        draws = self._sampler.epoch(progress.epoch)
        updates = self._updates(draws, progress.position)
        inputs = feed.read([batch for _, batches in updates for batch in batches])
        name = f"epoch {progress.epoch}"
        with self._stop.deferred(), progress_bar(name, len(draws), unit="crops", enabled=run.processes.is_first) as advance:
            advance(progress.position)
            for crops, batches in updates:
                run.system.loss.set_margin(self._margin(stage, len(draws)))
                run.system.loss.start_step(progress.step)
                factor = self._rate_factor(stage, len(draws))
                losses = self._losses(updater, feed, inputs, len(batches))
                report = updater.update(losses, total_crops=crops, rate_factor=factor)
                progress.count(crops, report.parts["loss"], updater.nonfinite_steps)
                self._record_step(stage, report, factor * stage.learning_rate)
                advance(crops)
                stop = self._stop_everywhere()
                every = run.config.training.checkpoint_every_steps
                # at the end too, so that neither a stop nor a kill during validation loses the epoch
                if stop or progress.position == len(draws) or (every and progress.step % every == 0):
                    self._keeper.save(stage, updater)
                if stop:
                    progress.interrupted = True
                    return
        self._end_epoch(stage, updater)

    def _updates(self, draws: list[Draw], start: int) -> list[tuple[int, list[list[Draw]]]]:
        training, processes = self._run.config.training, self._run.processes
        return split_updates(
            draws,
            batch_size=training.batch_size,
            accumulation_steps=training.accumulation_steps,
            rank=processes.rank,
            world_size=processes.world_size,
            start=start,
            group_size=self._run.config.data.crops_per_speaker,
        )

    def _losses(self, updater: Updater, feed: Feed, inputs: Iterator[Inputs], count: int) -> Iterator[tuple[StepLoss, int]]:
        for _ in range(count):
            batch = next(inputs)
            with updater.autocast():
                raw, teacher = feed.embed(batch, self._teacher)
            loss = self._run.system(raw.float(), batch.labels, None if teacher is None else teacher.float())
            yield loss, len(batch.labels)

    def _margin(self, stage: Stage, draws: int) -> float:
        warmup = self._run.config.loss.margin_warmup_epochs
        done = self._run.progress.epoch + self._run.progress.position / draws
        return stage.margin * min(1.0, done / warmup) if warmup else stage.margin

    def _rate_factor(self, stage: Stage, draws: int) -> float:
        training, progress = self._run.config.training, self._run.progress
        together = training.batch_size * training.accumulation_steps * self._run.processes.world_size
        per_epoch = math.ceil(draws / together)
        step = (progress.epoch - stage.first_epoch) * per_epoch + progress.position // together
        return learning_rate_factor(
            step,
            total_steps=per_epoch * stage.epochs,
            warmup_steps=warmup_steps(training.warmup_epochs, per_epoch),
            schedule=training.schedule,
            final_ratio=training.final_learning_rate_ratio,
        )

    def _record_step(self, stage: Stage, report: UpdateReport, rate: float) -> None:
        run, progress = self._run, self._run.progress
        if report.skipped:
            _LOG.warning("Step %d skipped: loss or gradient is not finite (%d so far)", progress.step, progress.nonfinite_steps)
        if progress.step % run.config.training.log_every_steps == 0 or report.skipped:
            run.log.append(
                {
                    "kind": "step",
                    "step": progress.step,
                    "epoch": progress.epoch,
                    "stage": stage.number,
                    "learning_rate": rate,
                    "gradient_norm": report.gradient_norm,
                    "skipped": report.skipped,
                    **report.parts,
                }
            )

    def _end_epoch(self, stage: Stage, updater: Updater) -> None:
        run, progress = self._run, self._run.progress
        epoch, mean_loss = progress.epoch, progress.mean_loss
        progress.next_epoch()
        chance = run.system.chance_level
        _LOG.info("Epoch %d: loss %.4f%s", epoch, mean_loss, "" if chance is None else f" (chance level {chance:.3f})")
        run.log.append(
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
        last = progress.epoch == run.config.training.num_epochs or progress.epoch == stage.end_epoch
        if last or progress.epoch % run.config.training.validate_every_epochs == 0:
            self._validate()
        self._keeper.save(stage, updater)

    def _stop_everywhere(self) -> bool:
        run = self._run
        if run.processes.world_size == 1:
            return self._stop.requested
        return bool(run.processes.sum_(torch.tensor(float(self._stop.requested), device=run.device)).item() > 0)

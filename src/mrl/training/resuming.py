"""From a run to a checkpoint, and from a checkpoint back to the run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mrl.errors import CheckpointError, TrainingError
from mrl.training import checkpoints
from mrl.training.checkpoints import CheckpointFolder, TrainingState, load_state
from mrl.training.config import TrainConfig
from mrl.training.folders import RunFolder
from mrl.training.run import Run
from mrl.training.stages import Stage
from mrl.training.updates import Updater

_LOG = logging.getLogger(__name__)
_NEEDED = ("stage", "progress", "data", "average_steps", "optimizer", "scaler")


def find_state(
    resume: str | None, config: TrainConfig, folder: RunFolder, saved: CheckpointFolder, *, world_size: int = 1
) -> TrainingState | None:
    """Return the checkpoint to resume from, or None where a new run begins.

    Args:
        resume: None, ``auto`` or the path of a checkpoint, see :func:`mrl.training.run_training`.
        config: all settings; those of the interrupted run must give the same results.
        folder: of the run.
        saved: its checkpoints.
        world_size: number of processes now; may differ from before.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        TrainingError: it is of another run or other settings.
    """
    if resume is None:
        return None
    if resume == "auto":
        newest = saved.newest_good()
        if newest is None:
            _LOG.info("No checkpoint in %s; a new run begins", folder.checkpoints)
            return None
        latest, state = newest
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

"""One epoch: batches in order, one update after the other, and what is recorded and saved on the way."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence

import torch

from mrl.bounded import read_bytes
from mrl.data import Draw, split_updates
from mrl.data.samplers import Sampler, smallest_batch, updates_left
from mrl.errors import TrainingError
from mrl.matryoshka import ReDimNetMRL
from mrl.progress import progress_bar
from mrl.training.feeds import Feed, Inputs
from mrl.training.resuming import StateKeeper
from mrl.training.run import Run, StopRequest
from mrl.training.stages import Stage
from mrl.training.system import StepLoss
from mrl.training.updates import Updater, UpdateReport, learning_rate_factor, margin_factor, warmup_steps

_LOG = logging.getLogger(__name__)
_FEWEST_FOR_STATISTICS = 2  # crops; of one alone BatchNorm has no variance


class BadDraws:
    """What could not be read: each problem is logged once and noted in the run folder, and too many of them end the run.

    Args:
        run: the run, whose progress counts them.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._file = run.folder.bad_utterances
        noted = read_bytes(self._file, error=TrainingError) if self._file.is_file() else b""
        self._known = set(noted.decode("utf-8", "replace").splitlines())
        self._last = ""

    def note(self, problems: Sequence[str]) -> None:
        """Log what is new and add it to ``bad-utterances.txt``: the recording, a tab, and the rest of the message."""
        for problem in problems:
            self._last = problem
            path, _, reason = " ".join(problem.split()).partition(": ")
            line = f"{path}\t{reason}"
            if line not in self._known:
                self._known.add(line)
                _LOG.warning("A recording cannot be used, and another one takes its place: %s", problem)
                with self._file.open("a", encoding="utf-8") as stream:
                    stream.write(f"{line}\n")

    def check(self, draws: int) -> None:
        """Compare the count of all processes with what the configuration allows of an epoch of ``draws``.

        Raises:
            TrainingError: there are too many.
        """
        bad, share = self._run.progress.bad_draws, self._run.config.data.max_bad_share
        if bad > share * draws:
            last = f", the last: {self._last}" if self._last else ""
            raise TrainingError(
                f"{bad} of the {draws} draws of epoch {self._run.progress.epoch} cannot be used, more than data.max_bad_share="
                f"{share:g} allows{last}; all are in {self._file}: repair them, or give that file as data.train.exclude, and use "
                "--resume auto"
            )


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
        self._bad_draws = BadDraws(run)

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
                problems: list[str] = []
                losses = self._losses(updater, feed, inputs, len(batches), problems)
                report = updater.update(losses, total_crops=crops, rate_factor=factor, batches=len(batches))
                progress.count(crops, report.parts["loss"], updater.nonfinite_steps)
                self._record_step(stage, report, factor * stage.learning_rate)
                advance(crops)
                self._bad_draws.note(problems)
                stop, bad_draws = self._of_all_processes(self._stop.requested, len(problems))
                progress.bad_draws += bad_draws
                self._bad_draws.check(len(draws))
                every = run.config.training.checkpoint_every_steps
                # at the end too, so that neither a stop nor a kill during validation loses the epoch
                if stop or progress.position == len(draws) or (every and progress.step % every == 0):
                    self._keeper.save(stage, updater)
                if stop:
                    progress.interrupted = True
                    return
        self._end_epoch(stage, updater)

    def _updates(self, draws: Sequence[Draw], start: int) -> list[tuple[int, list[list[Draw]]]]:
        sizes = {
            "batch_size": self._run.config.training.batch_size,
            "accumulation_steps": self._run.config.training.accumulation_steps,
            "world_size": self._run.processes.world_size,
            "group_size": self._run.config.data.crops_per_speaker,
        }
        if self._run.encoder.updates_statistics and smallest_batch(len(draws), **sizes, start=start) < _FEWEST_FOR_STATISTICS:
            raise TrainingError(
                f"an epoch of {len(draws)} crops leaves a process a batch of one crop, of which BatchNorm can take no statistics "
                f"(training.batch_size {sizes['batch_size']}, {sizes['world_size']} processes); use training.batch_size of 4 or "
                "more, fewer processes or more training data, or advanced.batch_norm_statistics: frozen"
            )
        return split_updates(draws, **sizes, rank=self._run.processes.rank, start=start)

    def _losses(
        self, updater: Updater, feed: Feed, inputs: Iterator[Inputs], count: int, problems: list[str]
    ) -> Iterator[tuple[StepLoss, int]]:
        for _ in range(count):
            batch = next(inputs)
            problems.extend(batch.problems)
            with updater.autocast():
                raw, teacher = feed.embed(batch, self._teacher)
            loss = self._run.system(raw.float(), batch.labels, None if teacher is None else teacher.float())
            yield loss, len(batch.labels)

    def _margin(self, stage: Stage, draws: int) -> float:
        loss, progress = self._run.config.loss, self._run.progress
        return stage.margin * margin_factor(
            progress.epoch + progress.position / draws,
            delay=loss.margin_delay_epochs,
            rise=loss.margin_warmup_epochs,
            schedule=loss.margin_schedule,
        )

    def _rate_factor(self, stage: Stage, draws: int) -> float:
        training, progress = self._run.config.training, self._run.progress
        full = training.batch_size * training.accumulation_steps * self._run.processes.world_size
        per_epoch = updates_left(draws, full)
        step = (progress.epoch - stage.first_epoch + 1) * per_epoch - updates_left(draws - progress.position, full)
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

    def _of_all_processes(self, stop: bool, bad_draws: int) -> tuple[bool, int]:
        """Return whether any process was asked to stop, and how many bad draws all have had, in one exchange."""
        if self._run.processes.world_size == 1:
            return stop, bad_draws
        counts = self._run.processes.sum_(torch.tensor([float(stop), float(bad_draws)], device=self._run.device)).tolist()
        return counts[0] > 0, round(counts[1])

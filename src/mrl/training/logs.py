"""What a run records: ``metrics.jsonl`` always, TensorBoard and Weights & Biases where they are asked for."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import platform
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from mrl.bounded import parse_json, read_bytes, read_text
from mrl.errors import CheckpointError, MissingDependencyError, TrainingError
from mrl.files import atomic_path, write_json, write_text
from mrl.hardware import hardware_line
from mrl.training.config import TrainConfig, WandbConfig
from mrl.training.folders import RunFolder
from mrl.version import __version__

# What a run writes beside its weights: metrics as JSON lines, the environment, and curves.


_LOG = logging.getLogger(__name__)


_KEYS = frozenset({"kind", "step"})


class MetricsFile:
    """``metrics.jsonl``: one record per line, each with ``kind`` (step, epoch or validation) and ``step``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record; numbers that are not finite become null."""
        line = json.dumps(_finite(record), allow_nan=False) + "\n"
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(line)

    def read(self) -> list[dict[str, Any]]:
        """Return all records; a last line that was cut by a kill is left out.

        Raises:
            CheckpointError: another line is damaged.
        """
        return list(self._records()) if self.path.exists() else []

    def cut_after(self, step: int, epoch_done: int) -> None:
        """Drop what a run that resumes at ``step`` will write again: later steps, and results of epochs that are not done.

        Args:
            step: optimizer steps done.
            epoch_done: epochs whose results are in the checkpoint.
        """
        kept = [
            record
            for record in self.read()
            if (
                record["step"] <= step
                if record["kind"] == "step"
                else record["step"] <= step and record.get("epochs_done", 0) <= epoch_done
            )
        ]
        write_text(self.path, "".join(json.dumps(record, allow_nan=False) + "\n" for record in kept))

    def _records(self) -> Iterator[dict[str, Any]]:
        lines = read_bytes(self.path, error=CheckpointError).splitlines()
        for number, line in enumerate(lines, start=1):
            place = f"{self.path} line {number}"
            try:
                record = parse_json(line, place, error=CheckpointError, advice="it is damaged: remove it to continue")
                if not isinstance(record, dict) or not record.keys() >= _KEYS or not isinstance(record["step"], (int, float)):
                    raise CheckpointError(f"{place} is damaged: not a record with kind and step; remove it to continue")
            except CheckpointError:
                if number == len(lines):
                    return  # a kill may have cut it
                raise
            yield record


def write_environment(path: Path) -> None:
    """Write versions, hardware and the commit of this package, so that a figure can be traced to what made it."""
    write_json(
        path,
        {
            "mrl": __version__,
            "python": sys.version.split()[0],
            "git_commit": _git_commit(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "hardware": hardware_line(),
            "platform": platform.platform(),
            "processors": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
        },
    )


def write_curves(path: Path, records: list[dict[str, Any]]) -> None:
    """Draw loss over steps and EER over steps per dim to a PNG; without matplotlib a line in the log says so."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        _LOG.warning('%s is not drawn: matplotlib is missing (pip install "redimnet-mrl[plots]")', path.name)
        return
    steps = [record for record in records if record["kind"] == "step" and record.get("loss") is not None]
    validations = [record for record in records if record["kind"] == "validation"]
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for stage in sorted({record["stage"] for record in steps}):
        chosen = [record for record in steps if record["stage"] == stage]
        left.plot([r["step"] for r in chosen], [r["loss"] for r in chosen], label=f"stage {stage}", linewidth=1)
    left.set(xlabel="optimizer step", ylabel="loss", title="Training loss")
    for dim in validations[0]["eer"] if validations else ():
        right.plot(
            [r["step"] for r in validations], [100 * r["eer"][dim] for r in validations], marker="o", markersize=3, label=f"{dim}"
        )
    right.set(xlabel="optimizer step", ylabel="EER, %", title="Validation EER per dim")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _git_commit() -> str | None:
    """Return the commit of the checkout that this package runs from, with ``-dirty`` where files differ; None if it is none."""
    place = ["git", "-C", str(Path(__file__).parent)]
    try:
        tracked = subprocess.run([*place, "ls-files", "--error-unmatch", __file__], capture_output=True, timeout=10, check=False)
        if tracked.returncode != 0:  # installed somewhere below another project's checkout, or nowhere
            return None
        run = subprocess.run(
            [*place, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip() or None


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


# Curves for TensorBoard, in ``tensorboard/`` of the run folder.


class TensorBoardLog:
    """Writes event files.

    Args:
        folder: where they go; a resumed run adds a file to those that are there.
        first_step: what earlier files say of this step and later ones no longer counts, since the run computes it again.

    Raises:
        MissingDependencyError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingDependencyError(
                'training.tensorboard needs tensorboard: pip install "redimnet-mrl[logs]", or set it to false'
            ) from error
        # The first record of a run is at step 0; purge_step=0 would be read as none.
        self._writer = SummaryWriter(str(folder), purge_step=first_step or None)

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Add named values at an optimizer step."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Bring everything to disk."""
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


# Curves for Weights & Biases, by default offline: files in ``wandb/`` of the run folder, to be uploaded by ``wandb sync``.


_REPORTING = "WANDB_ERROR_REPORTING"


class WandbLog:
    """Writes one run of Weights & Biases; a resumed run keeps its identifier.

    Steps are the field ``step``, not wandb's own counter: that one refuses to go back, and a run that was killed computes its
    last steps again, to the same values.

    Args:
        config: project, name and mode.
        folder: of the run.
        settings: of the whole run, to be shown beside the curves.

    Raises:
        MissingDependencyError: wandb is not installed.
        TrainingError: it cannot start, such as without network or key in mode online.
    """

    def __init__(self, config: WandbConfig, folder: RunFolder, settings: Mapping[str, Any]) -> None:
        offline = config.mode == "offline"
        folder.root.mkdir(parents=True, exist_ok=True)
        with _quiet_errors() if offline else contextlib.nullcontext():
            try:
                import wandb
            except ImportError as error:
                raise MissingDependencyError(
                    'training.wandb needs wandb: pip install "redimnet-mrl[logs]", or set training.wandb.project to null'
                ) from error
            try:
                self._run = wandb.init(
                    project=config.project,
                    name=config.name,
                    id=_identifier(folder.wandb_id),
                    mode=config.mode,
                    dir=str(folder.root),
                    config=dict(settings),
                    resume=None if offline else "allow",
                    settings=wandb.Settings(
                        console="off",  # the log of a terminal has no place among curves
                        disable_code=True,
                        disable_git=True,
                        silent=True,
                        x_disable_stats=offline,
                        x_disable_machine_info=offline,
                    ),
                )
            except wandb.errors.Error as error:
                raise TrainingError(
                    f"Weights & Biases cannot start ({' '.join(str(error).split())}); log in by `wandb login`, or set "
                    "training.wandb.mode: offline"
                ) from error
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Add named values at an optimizer step."""
        self._run.log({**scalars, "step": step})

    def flush(self) -> None:
        """Nothing: wandb's own process writes each record as it comes, and outlives this one."""

    def close(self) -> None:
        """End the run and its process."""
        self._run.finish()


def _identifier(path: Path) -> str:
    """Return the run's identifier, which is kept in its folder."""
    if not path.exists():
        write_text(path, secrets.token_hex(4) + "\n")
    return read_text(path, error=TrainingError, max_bytes=1000).strip()


@contextlib.contextmanager
def _quiet_errors() -> Iterator[None]:
    """Keep wandb from reporting its own errors to its makers while it starts: offline means offline."""
    before = os.environ.get(_REPORTING)
    os.environ[_REPORTING] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_REPORTING]
        else:
            os.environ[_REPORTING] = before


_NO_SCALARS = frozenset({"kind", "step", "epoch", "epochs_done", "num_target"})


class ScalarLog(Protocol):
    """Where curves go besides ``metrics.jsonl``."""

    def write(self, scalars: Mapping[str, float], step: int) -> None:
        """Take in named values at an optimizer step."""
        ...

    def flush(self) -> None:
        """Bring everything to disk."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class RunLog:
    """All records of a run.

    Args:
        config: which logs are wanted.
        folder: of the run.
        writes: false in all processes but the first, whose log does nothing.
    """

    def __init__(self, config: TrainConfig, folder: RunFolder, *, writes: bool) -> None:
        self._config = config
        self._folder = folder
        self._writes = writes
        self._metrics = MetricsFile(folder.metrics)
        self._scalar_logs: list[ScalarLog] = []

    def begin(self) -> None:
        """Open the logs of a new run.

        Raises:
            MissingDependencyError: a log is asked for whose package is not installed.
            TrainingError: Weights & Biases cannot be reached, where that is asked for.
        """
        self._open(first_step=0)

    def resume(self, step: int, epochs_done: int) -> None:
        """Open the logs of a run that resumes at ``step``: what it will write again is dropped.

        Raises:
            MissingDependencyError, TrainingError: see :meth:`begin`.
        """
        if self._writes:
            self._metrics.cut_after(step, epochs_done)
        self._open(first_step=step + 1)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one record: ``kind``, ``step`` and values."""
        if not self._writes:
            return
        self._metrics.append(record)
        scalars = scalars_of(record)
        for log in self._scalar_logs:
            log.write(scalars, int(record["step"]))

    def read(self) -> list[dict[str, Any]]:
        """Return all records so far."""
        return self._metrics.read()

    def flush(self) -> None:
        """Bring everything to disk."""
        for log in self._scalar_logs:
            log.flush()

    def close(self) -> None:
        """End all logs; without effect if they were never opened."""
        while self._scalar_logs:
            self._scalar_logs.pop().close()

    def _open(self, first_step: int) -> None:
        training = self._config.training
        if not self._writes:
            return
        if training.tensorboard:
            self._scalar_logs.append(TensorBoardLog(self._folder.tensorboard, first_step))
        if training.wandb.project is not None and training.wandb.mode != "disabled":
            self._scalar_logs.append(WandbLog(training.wandb, self._folder, self._config.to_dict()))


def scalars_of(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the values of a record under the names that curves have: ``train/loss``, ``validation/eer/64`` and so on.

    Steps are ``train``, whole epochs ``epoch``, validations ``validation``. What is not a finite number is left out: a curve
    cannot show it.
    """
    kind = "train" if record["kind"] == "step" else str(record["kind"])
    scalars: dict[str, float] = {}
    for name, value in record.items():
        if name in _NO_SCALARS:
            continue
        entries = value.items() if isinstance(value, Mapping) else [(None, value)]
        for key, number in entries:
            if isinstance(number, (int, float)) and math.isfinite(number):
                scalars[f"{kind}/{name}" if key is None else f"{kind}/{name}/{key}"] = float(number)
    return scalars

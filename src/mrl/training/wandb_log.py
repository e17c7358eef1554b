"""Curves for Weights & Biases, by default offline: files in ``wandb/`` of the run folder, to be uploaded by ``wandb sync``."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mrl.errors import MissingDependencyError, TrainingError
from mrl.files import write_text
from mrl.training.config import WandbConfig
from mrl.training.run_folder import RunFolder

_REPORTING = "WANDB_ERROR_REPORTING"


class WandbLog:
    """Writes one run of Weights & Biases; a resumed training goes on under the same identifier.

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
        """Add named numbers at an optimizer step."""
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
    return path.read_text(encoding="utf-8").strip()


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

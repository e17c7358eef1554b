"""Folders that are written whole: to a temporary name first, then put in the place of the old one.

On Linux two folders change places in one step, so that there is no moment without a valid one. Where the file system cannot do
that (network disks, other systems), the old one is renamed away and the new one in; a kill between the two leaves the old one
under a hidden name, from where :func:`recover_folders` brings it back.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import datetime
import logging
import os
import platform
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mrl.bounded import read_text
from mrl.errors import MRLError, TrainingError
from mrl.files import write_text
from mrl.training.config import TrainConfig
from mrl.training.config_loading import WHOLE_MAPPINGS, load_config, save_config

_TEMPORARY, _OLD = ".tmp", ".old"


_LEFTOVER = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}(?P<kind>\.tmp|\.old)")


_CURRENT_FOLDER = -100  # AT_FDCWD: paths are taken from the working directory


_EXCHANGE = 2  # RENAME_EXCHANGE


_HOLDER_BYTES = 1000


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield an empty temporary folder beside ``target``; on success it takes the place of ``target``, on failure it is removed.

    Raises:
        OSError: the disk is full or cannot be written to; ``target`` is then as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(4)
    temporary = target.with_name(f".{target.name}.{token}{_TEMPORARY}")
    temporary.mkdir()
    try:
        yield temporary
        for path in [*temporary.rglob("*"), temporary]:
            _flush(path)
        if not target.exists():
            temporary.rename(target)
        elif not exchange_folders(temporary, target):
            old = target.with_name(f".{target.name}.{token}{_OLD}")
            target.rename(old)
            try:
                temporary.rename(target)
            except OSError:
                old.rename(target)
                raise
            shutil.rmtree(old)
        _flush(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # what was not finished, or what was replaced


def exchange_folders(first: Path, second: Path) -> bool:
    """Let two folders change places in one step; return whether system and file system can do that (else nothing is done)."""
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    done: int = rename(_CURRENT_FOLDER, os.fsencode(first), _CURRENT_FOLDER, os.fsencode(second), _EXCHANGE)
    return done == 0


def recover_folders(parent: Path) -> list[Path]:
    """Bring back the folders in ``parent`` of which a kill fell between the two renames, and remove what was left half written.

    No other process may be writing in ``parent`` at this time.

    Returns:
        The folders that were brought back.
    """
    recovered = []
    leftovers = [(path, _LEFTOVER.fullmatch(path.name)) for path in parent.glob(".*") if path.is_dir()]
    for path, leftover in leftovers:
        if leftover is None:
            continue
        target = parent / leftover["name"]
        if leftover["kind"] == _OLD and not target.exists():
            path.rename(target)
            recovered.append(target)
        else:
            shutil.rmtree(path)
    return recovered


def replace_folder(target: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary folder, which then takes the place of ``target``.

    Raises:
        TrainingError: it cannot be written; ``target`` is as it was.
    """
    try:
        with atomic_folder(target) as temporary:
            write(temporary)
    except OSError as error:
        raise TrainingError(f"{target} cannot be written ({error}); free some space and resume with --resume auto") from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Where a run keeps what.
#
# config.yaml all settings, defaults included environment.json versions and hardware metrics.jsonl losses, learning rates,
# error rates, one record per line curves.png loss and EER over steps tensorboard/ the same for TensorBoard, with
# training.tensorboard wandb/ the same for Weights & Biases, with training.wandb.project; wandb-id names the run there start/
# the model at step 0 (a candidate for best, and the teacher) teacher/ the teacher, where advanced.teacher_init gives it a
# head of its own best/ the best model so far: ReDimNetMRL.from_pretrained reads it last/ the model at the last validation,
# better or not (to look at, not to use) checkpoints/ the last few, to resume from cache/ pooled statistics of stage 1, unless
# advanced.cache_dir puts them elsewhere


_LOG = logging.getLogger(__name__)


# Settings that do not change what is computed, so that they may differ on resume.
_FREE_TO_CHANGE = frozenset(
    {
        "data.train.exclude",
        "data.max_bad_share",
        "training.num_workers",
        "training.device",
        "training.output_dir",
        "training.keep_checkpoints",
        "training.checkpoint_every_steps",
        "training.log_every_steps",
        "training.gradient_checkpointing",
        "training.tensorboard",
        "training.wandb.project",
        "training.wandb.name",
        "training.wandb.mode",
        "training.max_nonfinite_steps",
        "training.process_timeout_minutes",
        "training.early_stopping_validations",
        "advanced.cache_dir",
        "advanced.cache_read_ahead_megabytes",
        "advanced.weights",
    }
)


_FREE_WITHIN_A_GLOBAL_BATCH = frozenset({"training.batch_size", "training.accumulation_steps"})


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The paths of one run."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def environment(self) -> Path:
        return self.root / "environment.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def bad_utterances(self) -> Path:
        return self.root / "bad-utterances.txt"

    @property
    def curves(self) -> Path:
        return self.root / "curves.png"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def wandb_id(self) -> Path:
        return self.root / "wandb-id"

    @property
    def start(self) -> Path:
        return self.root / "start"

    @property
    def teacher(self) -> Path:
        return self.root / "teacher"

    @property
    def best(self) -> Path:
        return self.root / "best"

    @property
    def last(self) -> Path:
        return self.root / "last"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    def recover(self) -> None:
        """Bring back model folders and checkpoints that a kill left under a hidden name, and remove half-written ones."""
        for parent in (self.root, self.checkpoints):
            for folder in recover_folders(parent) if parent.is_dir() else ():
                _LOG.warning("%s was being replaced when the run was killed; the earlier one is back", folder)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against other processes while the block runs; the system lets go of it however the process ends.

        Raises:
            TrainingError: another process holds it (and is named).
        """
        self.root.mkdir(parents=True, exist_ok=True)
        lock, holder = FileLock(self.root / ".lock"), self.root / ".lock.holder"
        try:
            lock.acquire(timeout=0)
        except Timeout:
            who = "another process"
            with contextlib.suppress(OSError, MRLError):
                who = read_text(holder, max_bytes=_HOLDER_BYTES).strip() or who
            raise TrainingError(
                f"{who} is training in {self.root}; wait for it or stop it, or choose another training.output_dir"
            ) from None
        try:
            write_text(
                holder, f"process {os.getpid()} on {platform.node()}, started {datetime.datetime.now():%Y-%m-%d %H:%M:%S}\n"
            )
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()

    def check_new(self, *, has_checkpoints: bool) -> None:
        """Make sure that a new run may begin in this folder.

        Raises:
            TrainingError: another run's checkpoints are in it.
        """
        if has_checkpoints:
            raise TrainingError(
                f"{self.root} already holds a run; resume it with --resume auto, or choose another training.output_dir"
            )

    def begin(self, config: TrainConfig) -> None:
        """Make the folder and save the configuration; what a run left that was stopped before its first checkpoint goes."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.metrics.unlink(missing_ok=True)
        self.wandb_id.unlink(missing_ok=True)
        self.bad_utterances.unlink(missing_ok=True)
        shutil.rmtree(self.tensorboard, ignore_errors=True)
        save_config(config, self.config)

    def check_same(self, config: TrainConfig, *, same_global_batch: bool) -> None:
        """Make sure that a resumed run computes what the interrupted one did, and save the configuration.

        Args:
            config: of the resumed run.
            same_global_batch: whether as many crops as before make one optimizer step; the batch size of one process and
                the number of accumulated batches may then differ.

        Raises:
            TrainingError: a setting differs that changes the result (it is named).
        """
        before = _flat(load_config([self.config]).to_dict())
        now = _flat(config.to_dict())
        free = _FREE_TO_CHANGE | (_FREE_WITHIN_A_GLOBAL_BATCH if same_global_batch else frozenset())
        changed = [key for key in now if now[key] != before.get(key) and key not in free]
        if changed:
            listed = "; ".join(f"{key} was {before[key]!r}, is {now[key]!r}" for key in changed[:5])
            raise TrainingError(f"cannot resume {self.root} with other settings ({listed}); set them back, or begin a new run")
        save_config(config, self.config)


def _flat(tree: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and f"{place}{key}" not in WHOLE_MAPPINGS:
            flat |= _flat(value, f"{place}{key}.")
        else:
            flat[f"{place}{key}"] = value
    return flat

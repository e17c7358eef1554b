"""What a run writes beside its weights: metrics as JSON lines, the environment, and curves."""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mrl.errors import CheckpointError
from mrl.files import atomic_path, write_json, write_text
from mrl.hardware import hardware_line
from mrl.version import __version__

_LOG = logging.getLogger(__name__)


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
                else record["step"] <= step and record["epochs_done"] <= epoch_done
            )
        ]
        write_text(self.path, "".join(json.dumps(record, allow_nan=False) + "\n" for record in kept))

    def _records(self) -> Iterator[dict[str, Any]]:
        lines = self.path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                if number == len(lines):
                    return
                raise CheckpointError(f"{self.path} line {number} is damaged ({error.msg}); remove it to go on") from error
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
        found = subprocess.run(
            [*place, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value

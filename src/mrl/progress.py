"""One look for every progress bar: rate and time left on a terminal, silence elsewhere (logs and pipes stay clean)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _RateColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {self._unit}/s", style="progress.data.speed")


@contextlib.contextmanager
def progress_bar(
    description: str, total: int | None, *, unit: str = "files", enabled: bool = True
) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error while the block runs; yield ``advance(n)``.

    Nothing is drawn when ``enabled`` is false, standard error is not a terminal, or the library logs errors only (``--quiet``).
    """
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not (enabled and console.is_terminal and logging.getLogger("mrl").getEffectiveLevel() <= logging.WARNING),
        transient=True,
    )
    with progress:
        task = progress.add_task(description, total=total)
        yield lambda count: progress.advance(task, count)

"""Running a function over many recordings: decoded ahead in threads, batched by length, memory bounded, order kept."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from mrl.audio import SAMPLE_RATE, audio_info, load_audio
from mrl.bounded import reason_of
from mrl.distribution import Processes
from mrl.errors import AudioLoadingError, DataError, InputError, MRLError
from mrl.lengths import group_by_length, split_by_length
from mrl.progress import progress_bar

Waveform: TypeAlias = "npt.NDArray[np.float32]"
BatchFunction: TypeAlias = Callable[[list[Any]], Any]
"""Takes waveforms (samples,) at 16 kHz, or what a reader gives; returns a (batch, width) array or tensor, or several."""

WaveformChange: TypeAlias = Callable[[int, Waveform], Waveform]
"""Takes the number of a recording and its waveform; returns the waveform to be used instead. Runs in the decoding threads."""

Reader: TypeAlias = Callable[[Path, float, "Callable[[Waveform], Waveform] | None"], Any]
"""Takes a recording, its seconds by the header, and what is done to its waveform; returns what the function is given of it."""

_BATCHES_AHEAD = 2
_MOST_FILES_PER_BATCH = 256
_FAILURES_SHOWN = 5
_NO_MEMORY = "there is not enough memory to embed it; embed a part of it (max_seconds), or smaller batches"


class FileFailure(NamedTuple):
    """A recording that could not be used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, eq=False)
class MappedFiles:
    """What a function made of many recordings.

    Attributes:
        kept: indices into the paths given, ascending, of the recordings that worked.
        matrices: one (len(kept), width) float32 matrix for each output of the function.
        failures: the others, in the order given.
    """

    kept: tuple[int, ...]
    matrices: tuple[npt.NDArray[np.float32], ...]
    failures: tuple[FileFailure, ...]


def map_files(
    function: BatchFunction,
    paths: Sequence[str | os.PathLike[str]],
    *,
    batch_seconds: float = 60.0,
    num_workers: int = 2,
    max_seconds: float | None = None,
    change: WaveformChange | None = None,
    reader: Reader | None = None,
    show_progress: bool = True,
    description: str = "embedding",
    on_error: Literal["report", "raise"] = "report",
    processes: Processes | None = None,
) -> MappedFiles:
    """Decode recordings, run ``function`` on batches of similar length, and collect one row per recording and output.

    The longest recordings come first, so that a batch too large for memory shows at once. At most three batches of audio are
    in memory. Whether the rows depend on the batch is up to ``function``; the networks of this package mask padding, so
    that they do not.

    Args:
        function: takes a list of waveforms (samples,) float32 at 16 kHz; returns (batch, width), tensor or array, or a tuple
            of them. Runs under ``torch.inference_mode``.
        paths: the recordings, of any format that :func:`mrl.audio.load_audio` reads.
        batch_seconds: most audio per batch, in seconds, counted as padded (longest x number); a longer recording goes alone.
        num_workers: threads that decode; 0 decodes in the calling thread.
        max_seconds: use only the first so many seconds of each recording.
        change: what happens to every waveform before ``function`` sees it: noise, a codec, a cut.
        reader: reads recordings in another way, such that ``function`` is given what it returns instead of waveforms.
        show_progress: draw a bar (on a terminal only).
        description: what stands beside the bar.
        on_error: "report" lists unusable recordings and goes on; "raise" looks at all of them and then raises one error that
            counts them (nothing is computed after the first one).
        processes: those that share the work; each calls this function with the same arguments, computes its share, and gets
            the whole result. By default this process works alone.

    Raises:
        DataError: ``on_error="raise"`` and some recordings are unusable; or the function did not give one row per waveform.
        InputError: unusable arguments.
        ProcessError: another process has ended, does not answer, or was given other recordings.
        ReportedElsewhereError: in all processes but the first, instead of the error that counts unusable recordings.
    """
    team = processes or Processes()
    if not batch_seconds > 0 or num_workers < 0 or (max_seconds is not None and not max_seconds > 0):
        raise InputError(
            f"batch_seconds and max_seconds must be above 0 s and num_workers at least 0; found batch_seconds={batch_seconds}, "
            f"max_seconds={max_seconds}, num_workers={num_workers}"
        )
    if on_error not in ("report", "raise"):
        raise InputError(f"on_error must be 'report' or 'raise', found {on_error!r}")
    files = [Path(path) for path in paths]
    collector = _Collector(len(files))

    def read(index: int) -> Any:
        if reader is not None:
            return reader(files[index], seconds[index], None if change is None else functools.partial(change, index))
        waveform: Waveform = load_audio(files[index], duration=max_seconds, sample_rate=SAMPLE_RATE)
        return waveform if change is None else change(index, waveform)

    team.require_same_work([str(file) for file in files])
    with contextlib.ExitStack() as stack:
        executor = stack.enter_context(_ended_at_once(_executor(num_workers)))
        draw = show_progress and team.is_first
        with progress_bar("reading headers", len(files[team.rank :: team.world_size]), enabled=draw) as advance:
            seconds = _durations(files, max_seconds, executor, collector, team, advance)
        mine = split_by_length(seconds, team.world_size)[team.rank]
        seconds = {index: seconds[index] for index in mine}
        advance = stack.enter_context(progress_bar(_of_share(description, team), len(seconds), enabled=draw))
        for members, waveforms in _decoded(files, _batches(seconds, batch_seconds), read, executor, collector):
            if members and not (on_error == "raise" and collector.reasons):
                _run(function, members, waveforms, collector)
            advance(len(members))
    collector.share(mine, team)
    failures = tuple(FileFailure(files[index], reason) for index, reason in sorted(collector.reasons.items()))
    if failures and on_error == "raise":
        raise team.common_error(DataError(failure_summary(failures, len(files))))
    return collector.result(failures)


def failure_summary(failures: Sequence[FileFailure], total: int) -> str:
    """Return one line that counts the failures and shows the first few."""
    shown = "; ".join(_with_path(failure) for failure in failures[:_FAILURES_SHOWN])
    more = f"; and {len(failures) - _FAILURES_SHOWN} more" if len(failures) > _FAILURES_SHOWN else ""
    return f"{len(failures)} of {total} recordings cannot be used: {shown}{more}"


def _with_path(failure: FileFailure) -> str:
    return failure.reason if str(failure.path) in failure.reason else f"{failure.path}: {failure.reason}"


class _Collector:
    """Rows in the order of the paths, whatever the order of the batches."""

    def __init__(self, num_files: int) -> None:
        self.reasons: dict[int, str] = {}
        self._num_files = num_files
        self._matrices: list[npt.NDArray[np.float32]] | None = None

    def add(self, members: Sequence[int], outputs: tuple[npt.NDArray[np.float32], ...]) -> None:
        if self._matrices is None:
            self._matrices = [np.empty((self._num_files, output.shape[1]), dtype=np.float32) for output in outputs]
        finite = np.logical_and.reduce([np.isfinite(output).all(axis=1) for output in outputs])
        for row, member in enumerate(members):
            if finite[row]:
                for matrix, output in zip(self._matrices, outputs, strict=True):
                    matrix[member] = output[row]
            else:
                self.reasons[member] = "the network gave NaN or infinity; check the recording and the checkpoint"

    def share(self, mine: Sequence[int], team: Processes) -> None:
        """Give the rows and failures among ``mine`` to all processes, and take theirs."""
        if team.world_size == 1:
            return
        kept = [index for index in mine if index not in self.reasons] if self._matrices is not None else []
        widths = [matrix.shape[1] for matrix in self._matrices or []]
        reasons = [(index, self.reasons[index]) for index in mine if index in self.reasons]
        told = team.exchange({"kept": kept, "widths": widths, "reasons": reasons})
        for one in told:
            self.reasons.update(dict(one["reasons"]))
        known: list[int] = next((one["widths"] for one in told if one["widths"]), [])
        if self._matrices is None and known:
            self._matrices = [np.empty((self._num_files, width), dtype=np.float32) for width in known]
        for matrix in self._matrices or []:
            for one, rows in zip(told, team.exchange_rows(matrix[kept], [len(one["kept"]) for one in told]), strict=True):
                matrix[one["kept"]] = rows

    def result(self, failures: tuple[FileFailure, ...]) -> MappedFiles:
        kept = [index for index in range(self._num_files) if index not in self.reasons]
        matrices = self._matrices or []
        return MappedFiles(tuple(kept), tuple(matrix if not failures else matrix[kept] for matrix in matrices), failures)


class _CallingThread(Executor):
    """Runs each call when its result is asked for, so that nothing is decoded ahead."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return _Deferred(lambda: function(*args, **kwargs))


class _Deferred(Future[Any]):
    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__()
        self._call = call

    def result(self, timeout: float | None = None) -> Any:
        return self._call()


def _executor(num_workers: int) -> Executor:
    return ThreadPoolExecutor(num_workers, thread_name_prefix="decode") if num_workers else _CallingThread()


@contextlib.contextmanager
def _ended_at_once(executor: Executor) -> Iterator[Executor]:
    """Let an executor finish its work, or give it up without waiting when an exception (Ctrl-C, too) ends the block."""
    try:
        yield executor
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    executor.shutdown()


def _of_share(description: str, team: Processes) -> str:
    return description if team.world_size == 1 else f"{description} (share of {team})"


def _durations(
    files: list[Path],
    max_seconds: float | None,
    executor: Executor,
    collector: _Collector,
    team: Processes,
    advance: Callable[[int], None],
) -> dict[int, float]:
    """Return the seconds of every readable recording from its header; the others go to the collector."""
    numbers = range(team.rank, len(files), team.world_size)
    pending = [executor.submit(audio_info, files[index]) for index in numbers]
    found: list[tuple[int, float]] = []
    reasons: list[tuple[int, str]] = []
    for index, future in zip(numbers, pending, strict=True):
        try:
            length = float(future.result().seconds)
            found.append((index, length if max_seconds is None else min(length, max_seconds)))
        except Exception as error:  # whatever one recording does, the others are to be used
            reasons.append((index, reason_of(error)))
        advance(1)
    seconds: dict[int, float] = {}
    for theirs, why in team.exchange([found, reasons]):
        seconds.update(dict(theirs))
        collector.reasons.update(dict(why))
    return seconds


def _batches(seconds: dict[int, float], batch_seconds: float) -> list[list[int]]:
    """Group recordings of similar length, longest first."""
    members = list(seconds)
    groups = group_by_length(list(seconds.values()), batch_seconds, most_items=_MOST_FILES_PER_BATCH)
    return [[members[place] for place in group] for group in groups]


def _decoded(
    files: list[Path],
    batches: list[list[int]],
    read: Callable[[int], Waveform],
    executor: Executor,
    collector: _Collector,
) -> Iterator[tuple[list[int], list[Waveform]]]:
    """Yield the members of each batch that can be decoded, with their waveforms; two more batches are decoded meanwhile."""
    waiting: deque[list[tuple[int, Future[Waveform]]]] = deque()
    for position in range(len(batches) + _BATCHES_AHEAD):
        if position < len(batches):
            waiting.append([(index, executor.submit(read, index)) for index in batches[position]])
        if position < _BATCHES_AHEAD and position < len(batches) - 1:
            continue
        if not waiting:
            return
        members, waveforms = [], []
        for index, future in waiting.popleft():
            try:
                waveforms.append(future.result())
                members.append(index)
            except Exception as error:  # whatever one recording does, the others are to be used
                collector.reasons[index] = reason_of(error)
        yield members, waveforms


def _run(function: BatchFunction, members: list[int], waveforms: list[Waveform], collector: _Collector) -> None:
    try:
        outputs = _rows(function, waveforms)
    except (InputError, AudioLoadingError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_out_of_memory(error):
            raise
        # One unusable recording (too short, or too long for the memory) must not cost the others of its batch.
        if len(members) == 1:
            collector.reasons[members[0]] = _NO_MEMORY if not isinstance(error, MRLError) else reason_of(error)
            return
        for member, waveform in zip(members, waveforms, strict=True):
            _run(function, [member], [waveform], collector)
        return
    collector.add(members, outputs)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch says that there is no memory: on a GPU by a class of its own, on the CPU in words."""
    own_class = type(error).__name__ == "OutOfMemoryError"  # by name, because torch may not have been loaded
    return own_class or "not enough memory" in str(error) or "allocate memory" in str(error)


def _rows(function: BatchFunction, waveforms: list[Waveform]) -> tuple[npt.NDArray[np.float32], ...]:
    with _inference_mode():
        result = function(waveforms)
    outputs = tuple(_as_array(output) for output in (result if isinstance(result, tuple) else (result,)))
    for output in outputs:
        if output.ndim != 2 or len(output) != len(waveforms):
            raise DataError(f"a function over recordings must give (batch, width); found {output.shape} for {len(waveforms)}")
    return outputs


def _inference_mode() -> contextlib.AbstractContextManager[object]:
    torch = sys.modules.get("torch")  # where it has not been loaded, the function runs an exported file and does not need it
    return contextlib.nullcontext() if torch is None else torch.inference_mode()


def _as_array(output: Any) -> npt.NDArray[np.float32]:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(output, torch.Tensor):
        output = output.detach().float().cpu().numpy()
    return np.asarray(output, dtype=np.float32)

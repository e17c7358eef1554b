"""Examining every recording of a corpus, in several processes; a recording that crashes a decoder costs that recording only."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from mrl.audio.examining import Stretch, StretchFacts, examine_all, is_same_file
from mrl.bounded import lines_of, open_regular, parse_json, record
from mrl.errors import DataError, InputError, ProcessError
from mrl.progress import progress_bar

# What a survey has found so far, line by line, so that an interrupted one loses a recording at most.


StretchKey = tuple[str, float, float | None]


_VERSION = 1


_FIELDS = tuple(field.name for field in dataclasses.fields(StretchFacts))


def key_of(stretch: Stretch) -> StretchKey:
    """Return what a stretch is known by in the journal."""
    return (str(stretch.path), stretch.start, stretch.seconds)


@contextlib.contextmanager
def writing_journal(path: Path | None, *, decode: bool) -> Iterator[Callable[[Stretch, StretchFacts], None]]:
    """Yield a function that adds one result to the journal at ``path``; without a path it does nothing.

    Raises:
        OSError: the journal cannot be written.
    """
    if path is None:
        yield lambda stretch, facts: None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", buffering=1) as stream:  # flushed at each line
        # An empty line first, as the last one may be torn; the reader skips both.
        stream.write("\n" + json.dumps(_heading(decode)) + "\n")

        def note(stretch: Stretch, facts: StretchFacts) -> None:
            stream.write(json.dumps([*key_of(stretch), [getattr(facts, name) for name in _FIELDS]]) + "\n")

        yield note


def read_journal(path: Path, *, decode: bool) -> dict[StretchKey, StretchFacts]:
    """Return what surveys of the same kind have noted; unreadable lines are skipped, and their recordings are examined again.

    Raises:
        DataError: the file is there but cannot be opened.
    """
    known: dict[StretchKey, StretchFacts] = {}
    fits = False
    try:
        with open_regular(path) as stream:
            for line in lines_of(stream, str(path), advice="delete it to examine everything again"):
                with contextlib.suppress(ValueError, TypeError, DataError):
                    value = parse_json(line, str(path))
                    if isinstance(value, dict):
                        fits = value == _heading(decode)
                    elif fits:
                        name, start, seconds, facts = value
                        if len(facts) == len(_FIELDS):
                            values = dict(zip(_FIELDS, facts, strict=True))
                            known[name, start, seconds] = record(StretchFacts, values, str(path))
    except FileNotFoundError:
        return known
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); delete it to examine everything again") from error
    return known


def _heading(decode: bool) -> dict[str, object]:
    return {"version": _VERSION, "decode": decode}


_BATCH = 32  # recordings per task of a process


_WORTH_A_PROCESS = 256  # recordings: a process takes about a second to start


_CRASHED = "the process that read it died: a decoder crashed on it, or memory ran out"


_Batch = list[int]


_Finished = tuple[_Batch, list[StretchFacts]]


def survey(
    stretches: Sequence[Stretch],
    *,
    decode: bool = True,
    num_workers: int | None = None,
    journal: str | os.PathLike[str] | None = None,
    description: str = "examining",
    show_progress: bool = True,
) -> list[StretchFacts]:
    """Examine every stretch and return the facts in the same order; what is wrong with one never stops the others.

    Args:
        stretches: what to examine; no audio is kept in memory.
        decode: false: read headers only.
        num_workers: processes; None: one per processor. With 0 or 1, and for a few recordings, this process does the work. More
            need a script to start its work under ``if __name__ == "__main__"``.
        journal: file to note finished work in. If it is there already, recordings in it that have kept size and time of change
            are not examined again. The caller deletes it when its own work is done.
        description: in front of the progress bar.
        show_progress: draw the bar (on a terminal only).

    Raises:
        InputError: ``num_workers`` is negative.
        ProcessError: no process can be started.
        OSError: the journal cannot be written.
    """
    if num_workers is not None and num_workers < 0:
        raise InputError(f"num_workers is {num_workers}, expected 0 or more")
    notes = None if journal is None else Path(journal)
    results: list[StretchFacts | None] = [None] * len(stretches)
    todo = []
    known = {} if notes is None else read_journal(notes, decode=decode)
    for index, stretch in enumerate(stretches):
        facts = known.get(key_of(stretch))
        if facts is not None and is_same_file(facts, stretch.path):
            results[index] = facts
        else:
            todo.append(index)
    known.clear()
    workers = min(_usable_processors() if num_workers is None else num_workers, len(todo) // _WORTH_A_PROCESS)
    work = _in_processes(stretches, todo, decode, workers) if workers > 1 else _here(stretches, todo, decode)
    with (
        contextlib.closing(work),
        progress_bar(description, len(stretches), enabled=show_progress) as advance,
        writing_journal(notes, decode=decode) as note,
    ):
        advance(len(stretches) - len(todo))
        for batch, examined in work:
            for index, facts in zip(batch, examined, strict=True):
                results[index] = facts
                note(stretches[index], facts)
            advance(len(batch))
    return [facts for facts in results if facts is not None]


def _usable_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _here(stretches: Sequence[Stretch], todo: _Batch, decode: bool) -> Generator[_Finished, None, None]:
    for index in todo:
        yield [index], examine_all([stretches[index]], decode)


def _in_processes(stretches: Sequence[Stretch], todo: _Batch, decode: bool, workers: int) -> Generator[_Finished, None, None]:
    left = deque(todo[start : start + _BATCH] for start in range(0, len(todo), _BATCH))
    while left:
        lost = yield from _until_a_crash(stretches, left, decode, workers)
        yield from _one_by_one(stretches, lost, decode)


def _until_a_crash(
    stretches: Sequence[Stretch], left: deque[_Batch], decode: bool, workers: int
) -> Generator[_Finished, None, _Batch]:
    """Work off ``left`` until it is empty or a process dies; return what was being examined then."""
    running: dict[Future[list[StretchFacts]], _Batch] = {}
    pool = _start(workers)
    try:
        while left or running:
            while left and len(running) < 2 * workers:
                batch = left.popleft()
                try:
                    running[pool.submit(examine_all, [stretches[index] for index in batch], decode)] = batch
                except BrokenProcessPool:
                    left.appendleft(batch)
                    raise
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                facts = future.result()
                yield running.pop(future), facts
    except BrokenProcessPool:
        return [index for batch in running.values() for index in batch]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return []


def _one_by_one(stretches: Sequence[Stretch], suspects: _Batch, decode: bool) -> Generator[_Finished, None, None]:
    """Examine recordings in a process of their own, which is restarted when a recording crashes it."""
    pool: ProcessPoolExecutor | None = None
    try:
        for index in suspects:
            if pool is None:
                pool = _start(1)
                try:
                    pool.submit(examine_all, []).result()
                except BrokenProcessPool as error:
                    raise ProcessError(
                        "no process can be started to examine recordings; use --num-workers 1, or in a script start the work "
                        'under if __name__ == "__main__"'
                    ) from error
            try:
                facts = pool.submit(examine_all, [stretches[index]], decode).result()
            except BrokenProcessPool:
                facts = [StretchFacts(error=_CRASHED)]
                pool.shutdown()
                pool = None
            yield [index], facts
    finally:
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


def _start(workers: int) -> ProcessPoolExecutor:
    # Not by fork: this process has threads (the progress bar, torch), and a copy of it may wait for their locks for ever. What
    # is sent over needs no torch. An interrupt from the keyboard is for this process to handle.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))

"""Embeddings written to disk: of some recordings into one file, of very many into a folder of shards, in bounded memory.

A shard is the recordings of one stretch of the input. Each is one run of :func:`mrl.embeddings.map_files`: headers, then batches
of similar length, decoded ahead. So audio and embeddings in memory do not grow with the input, only the names do, and a shard
made again is the same shard. An interrupted job is resumed shard by shard.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from mrl.distribution import Processes
from mrl.embeddings.cache import EmbeddingCache
from mrl.embeddings.embedder import Embedder
from mrl.embeddings.extraction import EmbeddedFiles, Extraction, embed_function, extract, in_parts
from mrl.embeddings.formats import EMBEDDING_SUFFIXES, READABLE_SUFFIXES, ShardedEmbeddings, check_suffix, save_embeddings
from mrl.embeddings.mapping import BatchFunction, FileFailure
from mrl.embeddings.opening import as_embedder
from mrl.embeddings.shard_writing import ShardPlan, ShardWriter
from mrl.errors import InputError, MRLError, ReportedElsewhereError
from mrl.progress import progress_bar
from mrl.settings import changed
from mrl.version import __version__

DEFAULT_SHARD_SIZE = 10_000

_LOG = logging.getLogger(__name__)


def id_below(path: str | os.PathLike[str], root: str | os.PathLike[str]) -> str:
    """Return a recording's id in a trial list: its path relative to ``root``, with slashes.

    Raises:
        InputError: it does not lie below ``root``.
    """
    try:
        return Path(path).absolute().relative_to(Path(root).absolute()).as_posix()
    except ValueError:
        raise InputError(f"{os.fspath(path)} does not lie below the root {os.fspath(root)}") from None


def embed_to_file(
    model: Any,
    paths: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    how: Extraction | None = None,
    *,
    model_name: str,
    target_dim: int | None = None,
    root: str | os.PathLike[str] | None = None,
    processes: Processes | None = None,
    **changes: Any,
) -> EmbeddedFiles:
    """Embed recordings and write what could be embedded to ``output``, with the path of each as its id.

    Of more than 128 recordings or 64 MB, what is finished is kept in a folder ``output`` + ``.partial`` until all is: the same
    job resumes from it. The metadata give the seconds of audio and of speech of every row.

    Args:
        model: the network, or an :class:`mrl.embeddings.Embedder`.
        paths: the recordings.
        output: file to write; its suffix is checked before the work begins. Nothing is written when no recording worked.
        how: the settings.
        model_name: how the network was called, for the file's metadata.
        target_dim, changes: as for :func:`embed_files`.
        root: folder that the ids are relative to, as those of a trial list are; by default they are the paths as given.
        processes: those that share the work; the first one writes the file.

    Raises:
        InputError: unusable arguments, or a recording that is not below ``root``.
        ProcessError: another process has ended, does not answer, or was given other recordings.
        OSError: the file cannot be written.
    """
    check_suffix(output)
    ids = {Path(path): os.fspath(path) if root is None else id_below(path, root) for path in paths}
    embedder, chosen = as_embedder(model), changed(how or Extraction(), changes)
    unfinished = Path(f"{os.fspath(output)}.partial")
    files = [Path(path) for path in paths]
    long = unfinished.is_dir() or len(in_parts(files, range(len(files)))) > 1
    cache = EmbeddingCache(unfinished) if long else None
    found = extract(embedder, files, chosen, dim=target_dim, cache=cache, processes=processes)
    if processes is None or processes.is_first:
        if found.paths:
            metadata = describe_embeddings(embedder, model_name, found.matrices[0].shape[1], chosen)
            spoken = {name: [round(float(value), 2) for value in getattr(found, name)] for name in ("seconds", "speech_seconds")}
            save_embeddings(output, [ids[path] for path in found.paths], found.matrices[0], {**metadata, **spoken})
        shutil.rmtree(unfinished, ignore_errors=True)
    return EmbeddedFiles(found.paths, found.matrices[0], found.failures)


def describe_embeddings(embedder: Embedder, model_name: str, dim: int, how: Extraction) -> dict[str, Any]:
    """Return the metadata of a file of embeddings: what they were made with.

    ``model_sha256`` is of the very network that made them. With an early exit, ``depth`` is its number of stages and
    ``whole_model_sha256`` is of the whole network, with whose embeddings they may be compared.
    """
    facts = {
        "model": model_name,
        "model_sha256": embedder.model_hash,
        "dim": dim,
        "unit_length": embedder.unit_length,
        **how.facts(),
        "package": f"redimnet-mrl {__version__}",
    }
    cut = embedder.cut
    return facts if cut is None else {**facts, "depth": cut["depth"], "whole_model_sha256": cut["whole_sha256"]}


@dataclass(frozen=True, eq=False)
class EmbeddedFolder:
    """What :func:`embed_to_folder` made.

    Attributes:
        embeddings: the folder, to be read whole or shard by shard.
        failures: the recordings that could not be used, in the order given, also those of earlier runs.
    """

    embeddings: ShardedEmbeddings
    failures: tuple[FileFailure, ...]


def means_folder(output: str | os.PathLike[str], *, shard_size: int | None = None, shard_format: str | None = None) -> bool:
    """Return whether ``output`` is to be a folder of shards: it is a folder, it has no suffix, or shards are asked for.

    Raises:
        InputError: shards are asked for, and ``output`` is a file's name.
    """
    path = Path(output)
    if path.is_dir() or not path.suffix:
        return True
    if shard_size is None and shard_format is None:
        return False
    if path.suffix.lower() in READABLE_SUFFIXES:
        raise InputError(f"{path} is one file; shard size and format are for a folder: give a name without {path.suffix!r}")
    return True


def embed_to_folder(
    model: Any,
    paths: Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    how: Extraction | None = None,
    *,
    model_name: str,
    target_dim: int | None = None,
    shard_size: int = DEFAULT_SHARD_SIZE,
    shard_format: str = "safetensors",
    processes: Processes | None = None,
    **changes: Any,
) -> EmbeddedFolder | None:
    """Embed recordings into a folder of shards, or go on where an interrupted run of the same job stopped.

    Finished shards are kept if their contents are what was written, otherwise made again; the result is that of a run without
    interruption. What a shard holds does not depend on the others, so only the shard in progress is lost.

    Args:
        model: the network, or an :class:`mrl.embeddings.Embedder`.
        paths: the recordings; the id of each is its path as given.
        folder: made if absent; see :mod:`mrl.embeddings.formats` for what is in it.
        how: the settings; batches are made within a shard. Progress is a bar on a terminal, elsewhere a log line for each shard.
        model_name: how the network was called, for the metadata.
        target_dim, changes: as for :func:`mrl.embeddings.embed_files`.
        shard_size: recordings per shard, many times more than are in a batch.
        shard_format: "safetensors", "npz" or "parquet".
        processes: those that share the work; together they do one shard after the other, and the first one writes.

    Returns:
        None in all processes but the first.

    Raises:
        InputError: unusable arguments.
        DataError: the folder holds other files or embeddings of another job, or another process is writing to it.
        ProcessError: another process has ended, does not answer, or was given other recordings.
        ReportedElsewhereError: in all processes but the first, instead of an error of the first one before the work.
        OSError: the folder cannot be written to or the disk is full; run again to go on.
    """
    team = processes or Processes()
    embedder, chosen = as_embedder(model), changed(how or Extraction(), changes)
    width = embedder.check_dim(target_dim)
    suffix = f".{shard_format}"
    if suffix not in EMBEDDING_SUFFIXES:
        known = ", ".join(one.removeprefix(".") for one in EMBEDDING_SUFFIXES)
        raise InputError(f"shard_format must be one of {known}; found {shard_format!r}")
    ids = [_id_of(path) for path in paths]
    if team.world_size > 1:
        team.require_same_work(ids)
    plan = ShardPlan(ids, shard_size, suffix, width, describe_embeddings(embedder, model_name, width, chosen))
    with contextlib.ExitStack() as stack:
        writer, pending = _begin(stack, folder, plan, team)
        stack.enter_context(embedder.ready())
        draw = chosen.show_progress and team.is_first
        advance = stack.enter_context(progress_bar("embedding", len(ids), enabled=draw))
        meter = _Meter(plan, pending, team.world_size, advance, log=draw and not Console(stderr=True).is_terminal)
        function = meter.counting(embed_function(embedder, ("embedding",), width, None, chosen))
        quiet = dataclasses.replace(chosen, show_progress=False)  # one bar for all shards
        for number in pending:
            stretch = plan.stretch(number)
            meter.begin_shard(len(stretch))
            mapped = quiet.map(function, stretch, processes=team, reader=chosen.open)
            if writer is not None:
                matrix = mapped.matrices[0] if mapped.matrices else np.empty((0, width), dtype=np.float32)
                writer.write(number, [stretch[row] for row in mapped.kept], matrix, mapped.failures)
            del mapped  # before the next shard takes its memory
            meter.end_shard(number)
        return None if writer is None else EmbeddedFolder(*writer.finish())


def _id_of(path: str | os.PathLike[str]) -> str:
    """Return ``str(Path(path))``, as other extractions name recordings, without a second copy where it is the same text."""
    text = str(path) if isinstance(path, Path) else str(Path(path))
    return path if text == path else text


def _begin(
    stack: contextlib.ExitStack, folder: str | os.PathLike[str], plan: ShardPlan, team: Processes
) -> tuple[ShardWriter | None, list[int]]:
    """Let the first process open the folder; return its writer (there) and the shards to be made (everywhere)."""
    writer: ShardWriter | None = None
    error: MRLError | OSError | None = None
    if team.is_first:
        try:
            writer = stack.enter_context(ShardWriter.open(folder, plan))
        except (MRLError, OSError) as found:
            error = found
    pending = [] if writer is None else writer.pending
    told = team.exchange({"pending": pending, "error": None if error is None else str(error)})[0]
    if error is not None:
        raise error
    if told["error"] is not None:
        raise ReportedElsewhereError(told["error"])
    if writer is not None and len(pending) < plan.num_shards:
        _LOG.info("%d of %d shards in %s are finished and verified", plan.num_shards - len(pending), plan.num_shards, folder)
    return writer, list(told["pending"])


class _Meter:
    """How far the work has come: a bar within shards, and a line for each of them in a log."""

    def __init__(
        self, plan: ShardPlan, pending: Sequence[int], world_size: int, advance: Callable[[int], None], *, log: bool
    ) -> None:
        self._plan, self._world_size, self._advance, self._log = plan, world_size, advance, log
        self._left = sum(len(plan.stretch(number)) for number in pending)
        self._done, self._in_shard, self._shard_length = 0, 0, 0
        self._begun = time.monotonic()
        advance(len(plan.ids) - self._left)

    def begin_shard(self, length: int) -> None:
        """Begin with a shard of so many recordings."""
        self._in_shard, self._shard_length = 0, length

    def counting(self, function: BatchFunction) -> BatchFunction:
        """Return ``function`` such that what it has done is counted; other processes are taken to be as far as this one."""

        def counted(waveforms: list[Any]) -> Any:
            result = function(waveforms)
            step = min(len(waveforms) * self._world_size, self._shard_length - self._in_shard)
            self._in_shard += step
            self._advance(step)
            return result

        return counted

    def end_shard(self, number: int) -> None:
        """Count the rest of a shard: recordings that could not be used, and what other processes did."""
        self._advance(self._shard_length - self._in_shard)
        self._done += self._shard_length
        if self._log:
            rate = self._done / max(time.monotonic() - self._begun, 1e-9)
            _LOG.info(
                "shard %d of %d written: %.1f recordings per second, %s left",
                number + 1,
                self._plan.num_shards,
                rate,
                _duration((self._left - self._done) / rate),
            )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"

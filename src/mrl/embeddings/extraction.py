"""From recordings to embeddings: the settings, each declared once, and the one function that everything goes through."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from mrl.audio import SAMPLE_RATE, AudioSource, as_waveform, audio_info, load_audio, stream_audio
from mrl.audio.memory import InMemory, encoded
from mrl.audio.speech import SpeechDetector, check_detector, find_speech
from mrl.distribution import Processes as Processes
from mrl.embeddings.cache import EmbeddingCache, Shelf
from mrl.embeddings.embedder import Embedder, Matrix, Output, Waveform
from mrl.embeddings.mapping import BatchFunction, FileFailure, MappedFiles, Reader, WaveformChange, failure_summary, map_files
from mrl.embeddings.opening import as_embedder
from mrl.embeddings.windows import Crops, Sound, Windows, cut, embed_sounds
from mrl.errors import AudioLoadingError, DataError, InputError
from mrl.scoring.cosine import cosine_similarity as cosine_similarity
from mrl.settings import changed

PathLike = str | os.PathLike[str]
OnError = Literal["report", "raise"]

# What a process embeds between two writes to the cache: what is lost at most when the process is killed.
_RECORDINGS_PER_PART, _BYTES_PER_PART = 128, 64 << 20

_LONGEST_WHOLE = 1.5  # windows: a recording up to this length is embedded whole

_HOW_ONLY = {"batch_seconds", "num_workers", "show_progress"}  # settings that decide how the work is done, not what comes out
_AT_FIRST = {"vad": "none", "window_seconds": math.inf}  # what records and caches mean that do not mention these settings


@dataclass(frozen=True)
class Extraction:
    """How recordings become embeddings. A setting is declared here and applied in this module; callers pass all of them on.

    Attributes:
        batch_seconds: most audio per forward pass, in seconds, counted as padded; a longer recording goes alone.
        num_workers: threads that decode ahead; 0 decodes in the calling thread.
        max_seconds: truncate every recording to this length, in seconds.
        window_seconds: embed a recording of more than 1.5 times this length in windows of it; see :mod:`mrl.embeddings.windows`.
        overlap_seconds: what a window shares with the one before it, in seconds.
        vad: cut long gaps without speech, found in this way; see :func:`mrl.audio.speech.find_speech`.
        minimum_speech: refuse a recording with less speech than this, in seconds.
        show_progress: draw progress bars (on a terminal only).

    Raises:
        InputError: a window is not longer than the overlap, which is not below 0 s; or there is no such ``vad``.
        MissingDependencyError: ``vad="silero"`` without its packages.
    """

    batch_seconds: float = 60.0
    num_workers: int = 2
    max_seconds: float | None = None
    window_seconds: float = 20.0
    overlap_seconds: float = 0.0
    vad: SpeechDetector = "energy"
    minimum_speech: float = 0.0
    show_progress: bool = True

    def __post_init__(self) -> None:
        check_detector(self.vad)
        if not 0 <= self.overlap_seconds < self.window_seconds < math.inf:
            raise InputError(
                f"overlap_seconds must be from 0 s to less than window_seconds, which is finite; found {self.overlap_seconds} "
                f"and {self.window_seconds}"
            )

    def map(
        self,
        function: BatchFunction,
        recordings: Sequence[PathLike],
        *,
        change: WaveformChange | None = None,
        description: str = "embedding",
        on_error: OnError = "report",
        processes: Processes | None = None,
        reader: Reader | None = None,
    ) -> MappedFiles:
        """Run a function over recordings under these settings; see :func:`mrl.embeddings.map_files`.

        The function gets whole waveforms; with :meth:`open` as the ``reader``, sounds for :meth:`embed`.
        """
        return map_files(
            function,
            recordings,
            batch_seconds=self.batch_seconds,
            num_workers=self.num_workers,
            max_seconds=self.max_seconds,
            change=change,
            reader=reader,
            show_progress=self.show_progress,
            description=description,
            on_error=on_error,
            processes=processes,
        )

    def open(
        self,
        recording: AudioSource | InMemory,
        seconds: float | None = None,
        change: Callable[[Waveform], Waveform] | None = None,
        *,
        name: str | None = None,
        sample_rate: int | None = None,
    ) -> Sound:
        """Return what is embedded of one recording under these settings.

        A long file is looked through, then read again block by block while it is embedded.

        Args:
            recording: what to read: anything that :func:`mrl.audio.as_waveform` takes.
            seconds: its length, where that is known.
            change: what is done to its waveform first; a long file is then read whole.
            name: of the recording in messages; its path by default.
            sample_rate: of an array, in Hz; 16 kHz by default.

        Raises:
            InputError: an unusable array.
            AudioLoadingError: it cannot be decoded, is silent, or has less than :attr:`minimum_speech`.
            MissingDependencyError: ``vad="silero"`` without its packages.
        """
        called = name or (os.fsdecode(recording) if isinstance(recording, (str, os.PathLike)) else "the recording")
        blocks: Callable[[], Iterable[Waveform]]
        in_memory = hasattr(recording, "__array__")
        recording = recording if in_memory else encoded(recording)
        if in_memory or change is not None or not self._is_long(recording, seconds):
            waveform = self._load(recording, sample_rate)
            blocks = functools.partial(iter, [waveform if change is None else change(waveform)])
        else:
            blocks = functools.partial(stream_audio, recording, duration=self.max_seconds)
        speech = find_speech(blocks(), self.vad)
        if not speech.stretches or speech.speech_seconds < self.minimum_speech:
            raise AudioLoadingError(
                f"{called}: {speech.speech_seconds:.2f} s of speech in {speech.samples / SAMPLE_RATE:.2f} s; at least "
                f"{self.minimum_speech:g} s are needed (minimum_speech): record more, or check that it is speech"
            )
        return Sound(called, lambda: speech.keep(blocks()), speech.kept_seconds, speech.speech_seconds)

    def _is_long(self, recording: AudioSource, seconds: float | None) -> bool:
        length = audio_info(recording).seconds if seconds is None else seconds
        return self.used_seconds(length) > _LONGEST_WHOLE * self.window_seconds

    def _load(self, recording: AudioSource | InMemory, sample_rate: int | None) -> Waveform:
        if hasattr(recording, "__array__"):
            return as_waveform(recording, sample_rate)[
                : None if self.max_seconds is None else round(self.max_seconds * SAMPLE_RATE)
            ]
        return load_audio(recording, duration=self.max_seconds)

    def windows(self, sound: Sound) -> Windows:
        """Return the windows of a sound; one, of all of it, unless it is long."""
        size, overlap = (round(seconds * SAMPLE_RATE) for seconds in (self.window_seconds, self.overlap_seconds))
        return cut(sound.blocks(), size, overlap, round(_LONGEST_WHOLE * self.window_seconds * SAMPLE_RATE))

    def embed(
        self, embedder: Embedder, sounds: Sequence[Sound], outputs: Sequence[Output], dim: int, *, report: bool = False
    ) -> tuple[Matrix, ...]:
        """Return outputs of sounds that :meth:`open` gave, each (len(sounds), width); see :meth:`Embedder.outputs`."""
        at_once = max(1, int(self.batch_seconds // self.window_seconds))
        return embed_sounds(embedder, sounds, self.windows, outputs, dim, at_once=at_once, report=report)

    def used_seconds(self, seconds: float) -> float:
        """Return how much of a recording of this length is embedded, in seconds."""
        return seconds if self.max_seconds is None else min(seconds, self.max_seconds)

    def facts(self) -> dict[str, Any]:
        """Return the settings that decide an embedding, as JSON values, for records and for the keys of caches.

        Those that say what versions without them did are not listed (but for ``max_seconds``): it is the default of most, so
        that records and caches outlast new settings, and :data:`_AT_FIRST` of those that came with another default.
        """
        fields = [field for field in dataclasses.fields(self) if field.name not in _HOW_ONLY]
        values = {field.name: (getattr(self, field.name), _AT_FIRST.get(field.name, field.default)) for field in fields}
        if self.max_seconds is not None and self.max_seconds <= _LONGEST_WHOLE * self.window_seconds:
            del values["window_seconds"], values["overlap_seconds"]  # nothing is long enough for windows
        chosen = {name: value for name, (value, before) in values.items() if value != before}
        return {"max_seconds": self.max_seconds, **chosen}


class Change(Protocol):
    """What is done to every recording before it is embedded, such as noise or a codec."""

    def apply(self, utterance: str, waveform: Waveform) -> Waveform:
        """Return the changed waveform (samples,); it depends on the settings, the utterance's name and the waveform alone."""

    def settings(self) -> dict[str, Any]:
        """Return everything that decides the result, as JSON values."""


@dataclass(frozen=True, eq=False)
class Extracted:
    """What an extraction gave, for the recordings that could be used, in the order given.

    Attributes:
        kept: their places among the recordings given, ascending.
        paths: their files.
        matrices: for each output (len(paths), dim) float32, with crops (len(paths), crops, dim).
        failures: the recordings that could not be used, with the reason.
        seconds, speech_seconds: how much audio was embedded of each, and how much of it is not quiet, (len(paths),) float32; NaN
            where the embedding is from a cache of an earlier version.
    """

    kept: tuple[int, ...]
    paths: tuple[Path, ...]
    matrices: tuple[npt.NDArray[np.float32], ...]
    failures: tuple[FileFailure, ...]
    seconds: npt.NDArray[np.float32]
    speech_seconds: npt.NDArray[np.float32]


def extract(
    embedder: Embedder,
    recordings: Sequence[PathLike],
    how: Extraction | None = None,
    *,
    outputs: Sequence[Output] = ("embedding",),
    dim: int | None = None,
    crops: Crops | None = None,
    change: Change | None = None,
    names: Sequence[str] | None = None,
    cache: EmbeddingCache | None = None,
    processes: Processes | None = None,
    description: str = "embedding",
    on_error: OnError = "report",
) -> Extracted:
    """Embed recordings, whatever their formats and lengths.

    Args:
        embedder: the model.
        recordings: files of any format that :func:`mrl.audio.load_audio` reads.
        how: the settings.
        outputs: what is wanted of each recording, from one forward pass; see :data:`mrl.embeddings.embedder.Output`.
        dim: prefix length of the output "embedding"; all dimensions by default.
        crops: embed these parts of every recording instead of the whole.
        change: what is done to every recording first.
        names: what the recordings are called, for ``change``; their paths by default.
        cache: where embeddings are looked up and kept.
        processes: those that share the work; each calls this function with the same arguments, and gets the whole result.
        description: what stands beside the progress bar.
        on_error: "report" lists unusable recordings and goes on; "raise" looks at all of them and raises one error that counts
            them.

    Raises:
        DataError: ``on_error="raise"`` and some recordings are unusable.
        InputError: unusable arguments.
        ProcessError: another process has ended, does not answer, or was given other recordings.
        ReportedElsewhereError: in all processes but the first, instead of the error that counts unusable recordings.
    """
    chosen, width = how or Extraction(), embedder.check_dim(dim)
    kept_dim = width if cache is None else embedder.embed_dim  # a cache keeps whole embeddings, of which prefixes can be taken
    widths = [embedder.width(output, kept_dim) for output in outputs]
    function = embed_function(embedder, outputs, kept_dim, crops, chosen)
    paths = [Path(path) for path in recordings]
    called = [str(path) for path in paths] if names is None else names

    def run(numbers: Sequence[int], *, on_error: OnError) -> MappedFiles:
        return chosen.map(
            function,
            [paths[number] for number in numbers],
            change=None if change is None else lambda place, waveform: change.apply(called[numbers[place]], waveform),
            description=description,
            on_error=on_error,
            processes=processes,
            reader=chosen.open,
        )

    with embedder.ready():
        if cache is None:
            mapped = run(range(len(paths)), on_error=on_error)
        else:
            shelf = cache.shelf(_about(embedder, outputs, crops, change, chosen))
            mapped = _with_cache(run, paths, shelf, processes or Processes(), on_error, len(outputs) + 1)
    facts = mapped.matrices[-1] if mapped.matrices else np.empty((0, 2), dtype=np.float32)
    matrices = []
    for output, columns, matrix in zip(outputs, widths, mapped.matrices[:-1] or [None] * len(outputs), strict=True):
        shape = (len(mapped.kept), *([] if crops is None else [crops.count]), columns)
        rows = np.empty(shape, dtype=np.float32) if matrix is None else matrix.reshape(shape)
        matrices.append(_prefix(embedder, rows, width) if output == "embedding" and width < kept_dim else rows)
    kept = tuple(paths[index] for index in mapped.kept)
    return Extracted(mapped.kept, kept, tuple(matrices), mapped.failures, facts[:, 0], facts[:, 1])


@dataclass(frozen=True, eq=False)
class EmbeddedFiles:
    """Embeddings of the recordings that could be used, in the order given.

    Attributes:
        paths: one for each row.
        matrix: (len(paths), dim) float32.
        failures: the recordings that could not be used, with the reason.
    """

    paths: tuple[Path, ...]
    matrix: npt.NDArray[np.float32]
    failures: tuple[FileFailure, ...]


def embed_files(
    model: Any,
    paths: Sequence[PathLike],
    how: Extraction | None = None,
    *,
    target_dim: int | None = None,
    on_error: OnError = "report",
    processes: Processes | None = None,
    **changes: Any,
) -> EmbeddedFiles:
    """Embed recordings, whatever their formats and lengths.

    A ``ReDimNetMRL`` gives unit-length prefixes, as calling it does; a ``ReDimNet`` gives the raw embedding as the official
    network does, or its first ``target_dim`` dimensions. The network is in evaluation mode meanwhile.

    Args:
        model: the network, or an :class:`Embedder`; recordings are moved to its device.
        paths: the recordings.
        how: the settings.
        target_dim: prefix length in 1..embed_dim; all dimensions by default.
        on_error, processes: as for :func:`extract`.
        changes: settings of :class:`Extraction` by keyword, such as ``batch_seconds=30.0``.

    Raises:
        DataError, InputError, ProcessError: as :func:`extract`.
    """
    found = extract(
        as_embedder(model), paths, changed(how or Extraction(), changes), dim=target_dim, on_error=on_error, processes=processes
    )
    return EmbeddedFiles(found.paths, found.matrices[0], found.failures)


def score_files(
    model: Any, first: str | os.PathLike[str], second: str | os.PathLike[str], *, target_dim: int | None = None
) -> float:
    """Return the raw cosine, in [-1, 1], of the embeddings of two recordings.

    Args:
        model: the network.
        first, second: the recordings.
        target_dim: compare prefixes of this length; all dimensions by default.

    Raises:
        AudioLoadingError: a recording cannot be used.
        InputError: unusable ``target_dim``.
    """
    embedded = embed_files(model, [Path(first), Path(second)], target_dim=target_dim, num_workers=0, show_progress=False)
    if embedded.failures:
        raise AudioLoadingError(failure_summary(embedded.failures, 2))
    return cosine_similarity(*embedded.matrix)


def embed_function(
    embedder: Embedder, outputs: Sequence[Output], dim: int, crops: Crops | None, how: Extraction
) -> Callable[[list[Sound]], tuple[Matrix, ...]]:
    """Return a function from sounds to their outputs, and to the seconds of audio and of speech (len(sounds), 2)."""

    def embed(sounds: list[Sound]) -> tuple[Matrix, ...]:
        facts = np.array([(sound.seconds, sound.speech_seconds) for sound in sounds], dtype=np.float32)
        made = (
            how.embed(embedder, sounds, outputs, dim, report=how.show_progress) if crops is None else embed_crops(sounds, crops)
        )
        return (*made, facts)

    def embed_crops(sounds: list[Sound], crops: Crops) -> tuple[Matrix, ...]:
        at_once = max(1, int(how.batch_seconds // crops.seconds))
        parts = [crops.cut(sound.waveform()) for sound in sounds]
        flat = [part for several in parts for part in several]
        batches = [embedder.outputs(flat[start : start + at_once], outputs, dim) for start in range(0, len(flat), at_once)]
        bounds = np.cumsum([len(several) for several in parts])[:-1]
        matrices = []
        for column in zip(*batches, strict=True):
            groups = np.split(np.concatenate(column), bounds)
            full = [group if len(group) == crops.count else np.repeat(group, crops.count, axis=0) for group in groups]
            matrices.append(np.stack(full).reshape(len(sounds), -1))
        return tuple(matrices)

    return embed


def _with_cache(
    run: Callable[..., MappedFiles],
    paths: Sequence[Path],
    shelf: Shelf,
    processes: Processes,
    on_error: OnError,
    num_outputs: int,
) -> MappedFiles:
    unknown = np.full(2, np.nan, dtype=np.float32)  # of what an earlier version kept, without the seconds
    kept_rows = shelf.find(paths).items()
    rows = {index: (*row, unknown) if len(row) < num_outputs else row for index, row in kept_rows}
    reasons: dict[int, FileFailure] = {}
    missing_here = [index for index in range(len(paths)) if index not in rows]
    # Another job may have filled the cache between the looks of two processes, which must agree on what is to be done.
    missing = {index for part in processes.exchange(missing_here) for index in part}
    for numbers in in_parts(paths, sorted(missing), processes.world_size):
        mapped = run(numbers, on_error="report")
        kept = [numbers[place] for place in mapped.kept]
        failed = [number for number in numbers if number not in set(kept)]
        reasons |= dict(zip(failed, mapped.failures, strict=True))
        if kept and processes.is_first:
            shelf.add([paths[number] for number in kept], mapped.matrices)
        rows |= {number: tuple(matrix[place] for matrix in mapped.matrices) for place, number in enumerate(kept)}
    failures = tuple(reasons[number] for number in sorted(reasons))
    if failures and on_error == "raise":
        raise processes.common_error(DataError(failure_summary(failures, len(paths))))
    usable = tuple(number for number in range(len(paths)) if number not in reasons)
    columns = zip(*([row.reshape(-1) for row in rows[number]] for number in usable), strict=True)
    return MappedFiles(usable, tuple(np.stack(column) for column in columns), failures)


def in_parts(paths: Sequence[Path], numbers: Sequence[int], world_size: int = 1) -> list[list[int]]:
    """Divide recordings, by their places in ``paths``, into those that are embedded between two writes to a cache.

    They are ordered by size, so that the recordings of one part have similar lengths and fill batches well.
    """
    parts: list[list[int]] = []
    held = 0
    for size, number in sorted((-_size(paths[number]), number) for number in numbers):
        full = not parts or len(parts[-1]) >= _RECORDINGS_PER_PART * world_size or held - size > _BYTES_PER_PART * world_size
        if full:
            parts.append([])
        parts[-1].append(number)
        held = -size if full else held - size
    return parts


def _about(
    embedder: Embedder, outputs: Sequence[Output], crops: Crops | None, change: Change | None, how: Extraction
) -> dict[str, Any]:
    """What decides an embedding besides the recording."""
    whole = ("embedding",)
    # Names as earlier versions wrote them, so that their caches serve on.
    known = {whole: ["whole" if crops is None else "crops"], ("raw", "backbone"): ["matryoshka", "backbone"]}
    about = {
        "network": embedder.model_hash,
        "model_config": embedder.config,
        "outputs": known.get(tuple(outputs), list(outputs)),
        "device": embedder.device,
        **how.facts(),
    }
    if crops is None or change is not None:
        about["condition"] = None if change is None else change.settings()
    return about if crops is None else {**about, "crops": crops.count, "crop_seconds": crops.seconds}


def _prefix(embedder: Embedder, whole: Matrix, dim: int) -> Matrix:
    rows = embedder.prefix(whole.reshape(-1, whole.shape[-1]), dim)
    return rows.reshape(*whole.shape[:-1], dim)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0

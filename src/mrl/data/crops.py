"""From a drawn utterance to a waveform: random crops of one length, augmentation, whole utterances."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from mrl.audio import SAMPLE_RATE, audio_info, change_speed, load_audio
from mrl.data.utterances import Corpus, Utterance
from mrl.errors import AudioLoadingError, InputError, MRLError

Waveform = npt.NDArray[np.float32]


class AugmentFunction(Protocol):
    """Takes a waveform (samples,) at 16 kHz and a seed; returns one of the same length. Must depend on nothing else."""

    def __call__(self, waveform: Waveform, seed: int, /) -> Waveform: ...


@runtime_checkable
class ChangesSpeed(AugmentFunction, Protocol):
    """An augmentation that changes the speed too, which has to happen where the crop is cut."""

    def draw_speed(self, rng: np.random.Generator) -> float:
        """Return the speed at which to take the crop; 1 leaves it as it is."""
        ...


_SPEED = 3  # keeps the random stream of the speed apart from others of the same key


_REPLACEMENT = 9  # keeps the random stream of replacements apart from others


_TRIES_OF_THE_SPEAKER, _TRIES_OF_ANYBODY = 5, 15


_PLACES = 20  # random places of a recording to try before it is called silent


@dataclasses.dataclass(frozen=True, slots=True)
class Draw:
    """One draw of the sampler: which utterance, and when, so that every random choice about it can be made again.

    Attributes:
        utterance: position in the corpus.
        epoch: epoch of the draw.
        position: position of the draw in the epoch's global order (the same for any number of processes).
    """

    utterance: int
    epoch: int
    position: int


class Replacements:
    """Which utterance is drawn instead of one that cannot be used; follows from the seed and the draw alone.

    The first tries are other utterances of the same speaker, so that batches keep their balance and their pairs; then any
    utterance of the corpus.

    Args:
        corpus: what is drawn from.
        seed: of the choice.
        excluded: positions of utterances that are never used; a draw of one is replaced as if it could not be read.
    """

    def __init__(self, corpus: Corpus, *, seed: int, excluded: Collection[int] = ()) -> None:
        self._labels = np.asarray(corpus.labels, dtype=np.int64)
        self._by_speaker = np.argsort(self._labels, kind="stable")
        self._seed = seed
        self.excluded = frozenset(excluded)

    def of(self, draw: Draw) -> Iterator[Draw]:
        """Yield what to try instead of the draw, best first; ends after a few tries."""
        first, end = np.searchsorted(self._labels[self._by_speaker], (label := self._labels[draw.utterance], label + 1))
        random = np.random.default_rng((self._seed, draw.epoch, draw.position, _REPLACEMENT))
        same = self._by_speaker[first:end]
        others = random.permutation(same[same != draw.utterance])[:_TRIES_OF_THE_SPEAKER].tolist()
        for utterance in (*others, *random.integers(len(self._labels), size=_TRIES_OF_ANYBODY).tolist()):
            if utterance not in self.excluded:
                yield Draw(utterance, draw.epoch, draw.position)


class CropDataset:
    """Random crops of ``crop_seconds``, which depend only on the seed and the draw.

    Args:
        corpus: the utterances.
        crop_seconds: length of each crop in seconds; shorter utterances are repeated from their beginning until they fill it.
        seed: seed of the choice of crops and of the augmentation.
        augment: applied to each crop with a seed of its own.
        replacements: what is drawn instead of utterances that cannot be read, in batches of :class:`BatchLoader`; None: an
            error ends the batch.
    """

    def __init__(
        self,
        corpus: Corpus,
        crop_seconds: float,
        *,
        seed: int = 0,
        augment: AugmentFunction | None = None,
        replacements: Replacements | None = None,
    ) -> None:
        if not crop_seconds > 0:
            raise InputError(f"crop_seconds must be above 0 (found {crop_seconds})")
        self.corpus = corpus
        self.crop_samples = round(crop_seconds * SAMPLE_RATE)
        self.seed = seed
        self.augment = augment
        self.replacements = replacements

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, draw: Draw) -> tuple[Waveform, int]:
        """Return the crop (samples,) and the class index of its speaker.

        Raises:
            AudioLoadingError: the recording cannot be read.
        """
        key = (self.seed, draw.epoch, draw.position)
        crop = augmented_crop(self.corpus.utterances[draw.utterance], self.crop_samples, key, self.augment)
        return crop, self.corpus.labels[draw.utterance]

    def usable(self, draw: Draw, problems: list[str]) -> tuple[Waveform, int]:
        """Return the crop of this draw or of its replacement; why the draw itself cannot be used is added to ``problems``.

        Raises:
            AudioLoadingError: neither it nor its replacements can be read, or there are no replacements.
        """
        if self.replacements is None:
            return self[draw]
        failure: AudioLoadingError | None = None
        if draw.utterance not in self.replacements.excluded:
            try:
                return self[draw]
            except AudioLoadingError as error:
                failure = error
                problems.append(str(error))
        for other in self.replacements.of(draw):
            try:
                return self[other]
            except AudioLoadingError as error:
                failure = error
        path = self.corpus.utterances[draw.utterance].path
        raise failure or AudioLoadingError(f"{path} is excluded, and so is everything that was tried instead")


class WholeUtterances:
    """The utterances as they are, the first ``max_seconds`` of each; indexed by position."""

    def __init__(self, corpus: Corpus, max_seconds: float) -> None:
        self.corpus = corpus
        self.max_seconds = max_seconds

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, index: int) -> tuple[Waveform, int]:
        return read_whole(self.corpus.utterances[index], self.max_seconds), self.corpus.labels[index]


def seconds_of(utterance: Utterance, max_seconds: float) -> float:
    """Return the length of what :func:`read_whole` returns, in seconds, from the header if the utterance does not state it.

    Raises:
        AudioLoadingError: the header cannot be read.
    """
    seconds = utterance.seconds
    if seconds is None:
        seconds = audio_info(utterance.source).seconds - utterance.start
    return min(seconds / utterance.speed, max_seconds)


def read_whole(utterance: Utterance, max_seconds: float) -> Waveform:
    """Return an utterance (samples,), at most its first ``max_seconds`` seconds."""
    longest = max_seconds * utterance.speed  # of the file, before its speed is changed
    seconds = longest if utterance.seconds is None else min(utterance.seconds, longest)
    return _read(utterance, 0.0, seconds)


def random_crop(utterance: Utterance, samples: int, random: np.random.Generator) -> Waveform:
    """Return ``samples`` samples from a random place of the utterance; a shorter one is repeated from its beginning.

    A place that is digital silence is drawn again.

    Raises:
        AudioLoadingError: the recording cannot be read, or many places in it were all silent.
    """
    needed = samples / SAMPLE_RATE * utterance.speed
    length = utterance.seconds
    if length is None:
        length = audio_info(utterance.source).seconds - utterance.start
    slack = max(0.0, length - needed)
    for _ in range(_PLACES if slack else 1):
        offset = float(random.uniform(0.0, slack)) if slack else 0.0
        part = _read(utterance, offset, min(needed, length), allow_silence=True)
        if part.any():
            return fit_length(part, samples)
    raise AudioLoadingError(f"{utterance.path}: only silence where crops were drawn")


def augmented_crop(utterance: Utterance, samples: int, key: tuple[int, ...], augment: AugmentFunction | None) -> Waveform:
    """Return a random crop of ``samples`` samples after augmentation; every random choice follows from ``key``.

    Where the augmentation changes the speed, the crop is cut at that speed, so that its length stays. The speed has a random
    stream of its own: all else is drawn as without it.

    Raises:
        AudioLoadingError: see :func:`random_crop`; or a file of the augmentation cannot be read.
    """
    if isinstance(augment, ChangesSpeed):
        speed = augment.draw_speed(np.random.default_rng((*key, _SPEED)))
        utterance = dataclasses.replace(utterance, speed=utterance.speed * speed)
    random = np.random.default_rng(key)
    crop = random_crop(utterance, samples, random)
    return crop if augment is None else augment(crop, int(random.integers(2**63)))


def fit_length(audio: Waveform, samples: int) -> Waveform:
    """Return exactly ``samples`` samples: the first ones, or the whole repeated."""
    if len(audio) >= samples:
        return audio[:samples]
    return np.tile(audio, math.ceil(samples / len(audio)))[:samples]


def _read(utterance: Utterance, offset: float, seconds: float, *, allow_silence: bool = False) -> Waveform:
    start = utterance.start + offset
    audio = load_audio(utterance.source, offset=start, duration=seconds, allow_silence=allow_silence)
    return audio if utterance.speed == 1.0 else change_speed(audio, utterance.speed)


# Reading batches, in this process or in worker processes, with errors that arrive as they were raised.


Key = TypeVar("Key")


KeyContra = TypeVar("KeyContra", contravariant=True)


class WaveformSource(Protocol[KeyContra]):
    """Anything that gives a waveform (samples,) and a class index for a key."""

    def __getitem__(self, key: KeyContra, /) -> tuple[Waveform, int]: ...


@dataclasses.dataclass(frozen=True)
class Batch:
    """Waveforms padded with zeros to one length.

    Attributes:
        audio: (batch, samples) float32.
        lengths: (batch,) int64, samples of each that are real.
        labels: (batch,) int64 class indices.
        problems: why draws of it were replaced, one line each.
        missing: places among the keys asked for that are left out because they could not be read, and why.
    """

    audio: torch.Tensor
    lengths: torch.Tensor
    labels: torch.Tensor
    problems: tuple[str, ...] = ()
    missing: tuple[tuple[int, str], ...] = ()

    @property
    def equal_lengths(self) -> bool:
        """Whether no waveform is padded."""
        return bool((self.lengths == self.audio.shape[1]).all())


def collate(items: Sequence[tuple[Waveform, int]], problems: Sequence[str] = ()) -> Batch:
    """Pad waveforms to the longest and stack them."""
    lengths = [len(audio) for audio, _ in items]
    padded = np.zeros((len(items), max(lengths, default=0)), dtype=np.float32)
    for row, (audio, _) in zip(padded, items, strict=True):
        row[: len(audio)] = audio
    return Batch(
        torch.from_numpy(padded),
        torch.tensor(lengths, dtype=torch.int64),
        torch.tensor([label for _, label in items], dtype=torch.int64),
        tuple(problems),
    )


class _BatchReader(Dataset[Any], Generic[Key]):
    """Reads one whole batch for its keys; an error of ours is returned, not raised, because workers mangle what they raise."""

    def __init__(self, source: WaveformSource[Key]) -> None:
        self._source = source

    def __getitem__(self, keys: Sequence[Key]) -> Batch | MRLError:
        problems: list[str] = []
        try:
            replacing = getattr(self._source, "usable", None)
            if replacing is not None:
                return collate([replacing(key, problems) for key in keys], problems)
            if getattr(self._source, "leaves_out_unreadable", False):
                return self._readable(keys)
            return collate([self._source[key] for key in keys])
        except MRLError as error:
            return error

    def _readable(self, keys: Sequence[Key]) -> Batch:
        items, missing = [], []
        for place, key in enumerate(keys):
            try:
                items.append(self._source[key])
            except AudioLoadingError as error:
                missing.append((place, str(error)))
        return dataclasses.replace(collate(items), missing=tuple(missing))


class _Plan(Generic[Key]):
    """Gives a loader whose workers stay the batches of one epoch after the other."""

    def __init__(self) -> None:
        self.batches: Iterable[Sequence[Key]] = ()

    def __iter__(self) -> Iterator[list[Key]]:
        return (list(batch) for batch in self.batches)


class BatchLoader(Generic[Key]):
    """Reads batches in order, in this process or in workers that stay from one call of :meth:`read` to the next.

    Workers are given the source once, when they start, and the keys of each batch when its turn comes.

    Args:
        source: gives one waveform per key.
        num_workers: processes that read ahead; 0 reads in this process.
        pin_memory: copy to page-locked memory, for faster transfer to a GPU.
        start_method: how workers are started (``fork``, ``spawn``, ``forkserver``); None: as the system does.
    """

    def __init__(
        self,
        source: WaveformSource[Key],
        *,
        num_workers: int = 0,
        pin_memory: bool = False,
        start_method: str | None = None,
    ) -> None:
        self._reader = _BatchReader(source)
        self._pin_memory = pin_memory
        self._plan: _Plan[Key] = _Plan()
        self._loader: DataLoader[Any] | None = None
        if num_workers:
            self._loader = DataLoader(
                self._reader,
                batch_size=None,
                sampler=self._plan,
                num_workers=num_workers,
                collate_fn=_as_is,
                persistent_workers=True,
                multiprocessing_context=start_method,
                # a generator of its own: otherwise each start would advance the global one and change what follows
                generator=torch.Generator(),
            )

    def read(self, batches: Iterable[Sequence[Key]]) -> Iterator[Batch]:
        """Yield the batches in order.

        Args:
            batches: the keys of each batch, taken as they are needed.

        Raises:
            AudioLoadingError: a recording cannot be read; raised here with the message of the worker that met it.
        """
        self._plan.batches = batches
        for batch in map(self._reader.__getitem__, self._plan) if self._loader is None else self._loader:
            if isinstance(batch, MRLError):
                raise batch
            yield _pinned(batch) if self._pin_memory else batch

    def close(self) -> None:
        """Let the workers end."""
        self._loader = None


def load_batches(
    source: WaveformSource[Key], batches: Iterable[Sequence[Key]], *, num_workers: int = 0, pin_memory: bool = False
) -> Generator[Batch, None, None]:
    """Yield batches once, see :class:`BatchLoader` for what they are and what is raised."""
    loader = BatchLoader(source, num_workers=num_workers, pin_memory=pin_memory)
    try:
        yield from loader.read(batches)
    finally:
        loader.close()


def _as_is(batch: Any) -> Any:
    return batch


def _pinned(batch: Batch) -> Batch:
    return dataclasses.replace(
        batch, audio=batch.audio.pin_memory(), lengths=batch.lengths.pin_memory(), labels=batch.labels.pin_memory()
    )

"""From a drawn utterance to a waveform: random crops of one length, augmentation, whole utterances."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
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


_PLACES = 20  # random places of a recording to try before it is called silent


@dataclasses.dataclass(frozen=True)
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


class CropDataset:
    """Random crops of ``crop_seconds``, which depend only on the seed and the draw.

    Args:
        corpus: the utterances.
        crop_seconds: length of each crop in seconds; shorter utterances are repeated from their beginning until they fill it.
        seed: seed of the choice of crops and of the augmentation.
        augment: applied to each crop with a seed of its own.
    """

    def __init__(self, corpus: Corpus, crop_seconds: float, *, seed: int = 0, augment: AugmentFunction | None = None) -> None:
        if not crop_seconds > 0:
            raise InputError(f"crop_seconds must be above 0 (found {crop_seconds})")
        self.corpus = corpus
        self.crop_samples = round(crop_seconds * SAMPLE_RATE)
        self.seed = seed
        self.augment = augment

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
    """Return the length of what :func:`read_whole` returns, in seconds, from the header where the utterance does not tell.

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

    A place that is digital silence is drawn anew.

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
        found = _read(utterance, offset, min(needed, length), allow_silence=True)
        if found.any():
            return fit_length(found, samples)
    raise AudioLoadingError(f"{utterance.path}: nothing but silence where crops were drawn; leave this file out")


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
    """

    audio: torch.Tensor
    lengths: torch.Tensor
    labels: torch.Tensor

    @property
    def equal_lengths(self) -> bool:
        """Whether no waveform is padded."""
        return bool((self.lengths == self.audio.shape[1]).all())


def collate(items: Sequence[tuple[Waveform, int]]) -> Batch:
    """Pad waveforms to the longest and stack them."""
    lengths = [len(audio) for audio, _ in items]
    padded = np.zeros((len(items), max(lengths)), dtype=np.float32)
    for row, (audio, _) in zip(padded, items, strict=True):
        row[: len(audio)] = audio
    return Batch(
        torch.from_numpy(padded),
        torch.tensor(lengths, dtype=torch.int64),
        torch.tensor([label for _, label in items], dtype=torch.int64),
    )


class _Batches(Dataset[Any], Generic[Key]):
    """Reads one whole batch per index; an error of ours is returned, not raised, because workers mangle what they raise."""

    def __init__(self, source: WaveformSource[Key], batches: Sequence[Sequence[Key]]) -> None:
        self._source = source
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Batch | MRLError:
        try:
            return collate([self._source[key] for key in self._batches[index]])
        except MRLError as error:
            return error


def load_batches(
    source: WaveformSource[Key], batches: Iterable[Sequence[Key]], *, num_workers: int = 0, pin_memory: bool = False
) -> Iterator[Batch]:
    """Yield the batches in order.

    Args:
        source: gives one waveform per key.
        batches: the keys of each batch.
        num_workers: processes that read ahead; 0 reads in this process.
        pin_memory: copy to page-locked memory, for faster transfer to a GPU.

    Raises:
        AudioLoadingError: a recording cannot be read; raised here with the message of the worker that met it.
    """
    reader = _Batches(source, [list(batch) for batch in batches])
    if not len(reader):
        return
    loader: DataLoader[Any] = DataLoader(
        reader,
        batch_size=None,
        shuffle=False,
        num_workers=num_workers,
        collate_fn=_as_is,
        # a generator of its own: otherwise each start would advance the global one and change what follows
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, MRLError):
            raise batch
        yield _pinned(batch) if pin_memory else batch


def _as_is(batch: Any) -> Any:
    return batch


def _pinned(batch: Batch) -> Batch:
    return Batch(batch.audio.pin_memory(), batch.lengths.pin_memory(), batch.labels.pin_memory())

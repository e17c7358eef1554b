"""Reading batches, in this process or in worker processes, with errors that arrive as they were raised."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mrl.data.crops import Waveform
from mrl.errors import MRLError

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


def group_by_seconds(seconds: Sequence[float], max_seconds: float) -> list[list[int]]:
    """Return groups of indices, ascending in length, so that a padded batch of each holds at most ``max_seconds`` of audio.

    A recording longer than that is a group of its own.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(seconds)), key=lambda index: (seconds[index], index)):
        if groups and seconds[index] * (len(groups[-1]) + 1) <= max_seconds:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


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

"""What a decoder hands over, and how it says no."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Waveform = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AudioLimits:
    """What a recording may be; whatever lies beyond is refused before memory is taken for it.

    Attributes:
        lowest_rate, highest_rate: sample rates in Hz. A lower one would be multiplied by resampling.
        channels: the most.
        seconds: the longest recording.
        decoded_bytes: the most memory for what is decoded of it at once, at its own rate or at that delivered, in float32.
    """

    lowest_rate: int = 100
    highest_rate: int = 1_000_000
    channels: int = 256
    seconds: float = 48 * 3600.0
    decoded_bytes: int = 8 << 30

    def check_kind(self, rate: int, channels: int) -> None:
        """Raise :class:`Unreadable` for a sample rate or a number of channels that no recording has."""
        if not self.lowest_rate <= rate <= self.highest_rate:
            raise Unreadable(
                f"a sample rate of {rate:,} Hz; rates from {self.lowest_rate:,} to {self.highest_rate:,} Hz are read",
                final=True,
                remedy="check that its header is right",
            )
        if not 1 <= channels <= self.channels:
            raise Unreadable(
                f"{channels:,} channels; 1 to {self.channels} are read",
                final=True,
                remedy="write fewer channels to a file of their own",
            )

    def check_length(self, seconds: float) -> None:
        """Raise :class:`Unreadable` for a recording that is longer than any is."""
        if not 0 <= seconds <= self.seconds:
            raise Unreadable(
                f"{seconds / 3600:.4g} hours long; at most {self.seconds / 3600:g} hours are read",
                final=True,
                remedy="cut it into parts",
            )

    def check_size(self, samples: int, channels: int, *, rate: int, delivered_rate: int) -> None:
        """Raise :class:`Unreadable` for more samples than may be held at once, as decoded or as resampled."""
        held = 4 * max(samples * channels, samples * delivered_rate // rate)
        if held > self.decoded_bytes:
            raise Unreadable(
                f"{held:,} bytes when decoded; at most {self.decoded_bytes:,} are read at once",
                final=True,
                remedy="read a part of it (offset and duration), or cut it into parts",
            )


LIMITS = AudioLimits()


# Which samples to decode for a stretch of a recording, and how to cut and resample them so that the edges are right.


# The resampling filter of soxr's "HQ" rings for well under 20 ms at 8 kHz; 50 ms of true neighbouring signal on each side of a
# cut makes the cut part equal to the same part of the whole recording (measured: below 1e-5 of full scale).
_MARGIN_SECONDS = 0.05


def resample(samples: Waveform, source_rate: int, target_rate: int) -> Waveform:
    """Resample ``(samples,)`` from ``source_rate`` to ``target_rate`` Hz with soxr at its HQ setting (linear phase, no delay)."""
    if source_rate == target_rate:
        return samples
    import soxr

    resampled: Waveform = np.asarray(soxr.resample(samples, source_rate, target_rate, quality="HQ"), dtype=np.float32)
    return resampled


class Resampler:
    """What :func:`resample` does, block by block.

    Args:
        source_rate, target_rate: in Hz.
    """

    def __init__(self, source_rate: int, target_rate: int) -> None:
        import soxr

        same = source_rate == target_rate
        self._stream = None if same else soxr.ResampleStream(source_rate, target_rate, 1, dtype="float32", quality="HQ")

    def __call__(self, samples: Waveform, *, last: bool = False) -> Waveform:
        """Return what is ready of the signal after these further samples; with ``last``, all that is left of it."""
        return samples if self._stream is None else self._stream.resample_chunk(np.ascontiguousarray(samples), last=last)


@dataclass(frozen=True)
class Window:
    """A stretch of a recording in seconds, to be delivered at ``sample_rate`` Hz.

    Positions are counted on the grid of the delivered signal: the result holds samples ``first`` to ``last`` (excluded; None is
    the end) of the whole recording at ``sample_rate``, whatever the rate of the file.
    """

    offset: float
    duration: float | None
    sample_rate: int

    @property
    def first(self) -> int:
        return round(self.offset * self.sample_rate)

    @property
    def last(self) -> int | None:
        return None if self.duration is None else self.first + max(1, round(self.duration * self.sample_rate))

    def needed(self, rate: int) -> tuple[int, int, int | None]:
        """Return (decode from, first sample wanted, decode to) in samples at the file's own ``rate``.

        When the rates differ, decoding starts at a sample that falls exactly on a sample of the delivered signal (for 44.1 kHz
        to 16 kHz: a multiple of 441), at least the margin of the resampling filter earlier.
        """
        if rate == self.sample_rate:
            return self.first, self.first, self.last
        margin = math.ceil(_MARGIN_SECONDS * self.sample_rate)
        stop = None if self.last is None else math.ceil((self.last + margin) * rate / self.sample_rate)
        return self._skipped(rate) * rate // self.sample_rate, self.first * rate // self.sample_rate, stop

    def deliver(self, samples: Waveform, rate: int) -> Waveform:
        """Resample what was decoded from ``needed(rate)[0]`` on, and cut it to the window."""
        if rate == self.sample_rate:
            return samples[: None if self.last is None else self.last - self.first]
        skipped = self._skipped(rate)
        last = None if self.last is None else self.last - skipped
        return resample(samples, rate, self.sample_rate)[self.first - skipped : last]

    def _skipped(self, rate: int) -> int:
        """The delivered signal's sample at which decoding starts: a multiple of the common period of both rates."""
        period = self.sample_rate // math.gcd(rate, self.sample_rate)
        margin = math.ceil(_MARGIN_SECONDS * self.sample_rate)
        return max(0, self.first - margin) // period * period


@dataclass(frozen=True)
class Decoded:
    """One channel (the mean of all) at the file's own rate, from the first sample that was asked for."""

    samples: Waveform
    rate: int
    any_signal: bool  # some channel holds a sample that is not zero, even where the channels' mean is zero


@dataclass(frozen=True)
class AudioInfo:
    """Length in seconds, sample rate in Hz and number of channels of a recording, as stored in the file."""

    seconds: float
    sample_rate: int
    channels: int


class Unreadable(Exception):
    """This decoder cannot read the file; reading.py turns it into AudioLoadingError.

    ``final`` says that no other decoder need be asked, ``remedy`` what the user can do.
    """

    def __init__(self, reason: str, *, final: bool = False, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason = " ".join(reason.split()).rstrip(".")
        self.final = final
        self.remedy = remedy


def cut_off(found: float | None, promised: float | None, witness: str) -> Unreadable:
    """The refusal of a truncated file, with the seconds that are there and that should be."""
    seen = "an unknown number of seconds" if found is None else f"{found:.2f} s"
    due = "a length that it does not state" if promised is None else f"{promised:.2f} s"
    return Unreadable(
        f"the file is cut off: {seen} found of {due} ({witness})", final=True, remedy="copy or fetch the file again"
    )


def past_the_end(offset: float, seconds: float) -> Unreadable:
    """The refusal of an offset at which nothing is left to read."""
    return Unreadable(
        f"offset {offset:g} s is past the end, the recording has {seconds:.2f} s", final=True, remedy="use a smaller offset"
    )

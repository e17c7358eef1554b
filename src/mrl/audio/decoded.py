"""What a decoder hands over, and how it says no."""

from __future__ import annotations

from dataclasses import dataclass

from mrl.audio.windows import Waveform


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

    ``final`` says that no other decoder need be asked, ``mend`` what the user can do.
    """

    def __init__(self, reason: str, *, final: bool = False, mend: str = "") -> None:
        super().__init__(reason)
        self.reason = " ".join(reason.split()).rstrip(".")
        self.final = final
        self.mend = mend


def cut_off(found: float | None, promised: float | None, witness: str) -> Unreadable:
    """The refusal of a truncated file, with the seconds that are there and that should be."""
    seen = "an unknown number of seconds" if found is None else f"{found:.2f} s"
    due = "a length that it does not state" if promised is None else f"{promised:.2f} s"
    return Unreadable(f"the file is cut off: {seen} found of {due} ({witness})", final=True, mend="copy or fetch the file again")


def past_the_end(offset: float, seconds: float) -> Unreadable:
    """The refusal of an offset at which nothing is left to read."""
    return Unreadable(
        f"offset {offset:g} s is past the end, the recording has {seconds:.2f} s", final=True, mend="use a smaller offset"
    )

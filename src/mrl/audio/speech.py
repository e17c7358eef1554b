"""Where a recording has speech, and its speech without the long gaps between."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from mrl.audio.decoded import Waveform
from mrl.audio.reading import SAMPLE_RATE
from mrl.errors import InputError, MissingDependencyError

SpeechDetector = Literal["none", "energy", "silero"]
"""How speech is found: not at all (all is kept), by its power, or by the network Silero VAD."""

_LONGEST_PAUSE = SAMPLE_RATE  # kept: networks are trained on speech with its pauses
_MARGIN = SAMPLE_RATE // 5  # kept on each side of a longer one
_SHORTEST_BURST = SAMPLE_RATE // 10  # of speech between two longer ones; less is a click

_FRAME = SAMPLE_RATE // 50
_QUIET_DB = 35.0
_LOUD_FRAMES = 25  # the loudest half second

_SILERO_FRAME, _SILERO_CONTEXT, _SILERO_FRAMES_AT_ONCE = 512, 64, 512
_SILERO_THRESHOLD = 0.5


@dataclass(frozen=True)
class Speech:
    """Where a recording has speech.

    Attributes:
        samples: of the whole recording, at 16 kHz.
        speech_seconds: of frames with speech.
        stretches: (first sample, end) of what is kept of the recording, ascending; all of it unless gaps are long.
    """

    samples: int
    speech_seconds: float
    stretches: tuple[tuple[int, int], ...]

    @property
    def kept_seconds(self) -> float:
        """How much is kept."""
        return sum(end - start for start, end in self.stretches) / SAMPLE_RATE

    def keep(self, blocks: Iterable[Waveform]) -> Iterator[Waveform]:
        """Yield of the recording, in blocks (samples,), what is kept."""
        begin = 0
        for block in blocks:
            for start, end in self.stretches:
                part = block[max(0, start - begin) : max(0, end - begin)]
                if len(part):
                    yield part
            begin += len(block)


def find_speech(blocks: Iterable[Waveform], detector: SpeechDetector) -> Speech:
    """Find the speech of audio at 16 kHz that comes in blocks (samples,).

    Gaps without speech of up to a second are kept; of a longer one, 0.2 s on each side. So a recording without long gaps is kept
    as it is, to the sample.

    - "energy": frames of 20 ms have speech if they are within 35 dB of the loud ones, those at the 95th percentile of power, or
      the loudest half second where that is less. This needs no model, and takes any loud sound for speech.
    - "silero": frames of 32 ms have speech if Silero VAD (https://github.com/snakers4/silero-vad) finds it likelier than not.
    - "none": all is kept; seconds of speech are counted by energy.

    Raises:
        MissingDependencyError: "silero" without the packages of the extra ``vad``.
    """
    if detector == "silero":
        samples, likelihood = _silero_probabilities(blocks)
        frame, active = _SILERO_FRAME, likelihood >= _SILERO_THRESHOLD
    else:
        samples, power = _frame_powers(blocks)
        frame, active = _FRAME, power >= _quiet_limit(power)
        if not len(power):  # too short for a frame
            return Speech(samples, samples / SAMPLE_RATE, ((0, samples),))
    seconds = min(samples, int(np.count_nonzero(active)) * frame) / SAMPLE_RATE
    return Speech(samples, seconds, ((0, samples),) if detector == "none" else _stretches(active, frame, samples))


def check_detector(detector: str) -> None:
    """Make sure, before the work begins, that speech can be found in this way.

    Raises:
        InputError: there is no such :data:`SpeechDetector`.
        MissingDependencyError: its packages are not installed.
    """
    if detector not in get_args(SpeechDetector):
        raise InputError(f"vad must be one of {', '.join(get_args(SpeechDetector))}; found {detector!r}")
    if detector == "silero":
        _silero_file()


def _stretches(active: npt.NDArray[np.bool_], frame: int, samples: int) -> tuple[tuple[int, int], ...]:
    places = np.flatnonzero(active) * frame
    groups = np.split(places, np.flatnonzero(np.diff(places) > _LONGEST_PAUSE + frame) + 1)
    if len(groups) > 1:
        groups = [group for group in groups if len(group) * frame >= _SHORTEST_BURST] or groups
    kept = [(max(0, int(group[0]) - _MARGIN), min(samples, int(group[-1]) + frame + _MARGIN)) for group in groups if len(group)]
    if kept and kept[0][0] + _MARGIN <= _LONGEST_PAUSE:
        kept[0] = 0, kept[0][1]
    if kept and samples - kept[-1][1] + _MARGIN <= _LONGEST_PAUSE:
        kept[-1] = kept[-1][0], samples
    return tuple(kept)


def _frame_powers(blocks: Iterable[Waveform]) -> tuple[int, npt.NDArray[np.float64]]:
    """Return the number of samples, and the power of the whole frames of 20 ms."""
    samples, powers, rest = 0, [np.empty(0)], np.empty(0, dtype=np.float32)
    for block in blocks:
        samples += len(block)
        audio = np.concatenate([rest, block]) if len(rest) else block
        whole = len(audio) // _FRAME
        frames, rest = audio[: whole * _FRAME].reshape(whole, _FRAME).astype(np.float64), audio[whole * _FRAME :]
        powers.append(np.einsum("nf,nf->n", frames, frames))
    return samples, np.concatenate(powers)


def _quiet_limit(power: npt.NDArray[np.float64]) -> float:
    """Return the power below which frames are quiet."""
    loud = power[power > 0]
    if not len(loud):
        return math.inf
    place = max(0.95 * (len(loud) - 1), len(loud) - _LOUD_FRAMES)
    below, above = math.floor(place), math.ceil(place)
    ordered = np.partition(loud, (below, above))  # np.quantile would import numpy.ma, which a short command waits for
    level = ordered[below] + (place - below) * (ordered[above] - ordered[below])
    return float(level * 10 ** (-_QUIET_DB / 10))


def _silero_probabilities(blocks: Iterable[Waveform]) -> tuple[int, npt.NDArray[np.float32]]:
    """Return the number of samples, and the probability of speech in every frame of 32 ms; the last one is filled up."""
    session = _silero_session()
    hidden = cell = np.zeros((1, 1, 128), dtype=np.float32)
    context, rest = np.zeros(_SILERO_CONTEXT, dtype=np.float32), np.empty(0, dtype=np.float32)
    samples, found = 0, [rest]

    def run(frames: npt.NDArray[np.float32]) -> None:
        nonlocal hidden, cell, context
        for start in range(0, len(frames), _SILERO_FRAMES_AT_ONCE):
            part = frames[start : start + _SILERO_FRAMES_AT_ONCE]
            before = np.concatenate([context[None], part[:-1, -_SILERO_CONTEXT:]])
            inputs = {"input": np.concatenate([before, part], axis=1), "h": hidden, "c": cell}
            probabilities, hidden, cell = session.run(["speech_probs", "hn", "cn"], inputs)
            context = part[-1, -_SILERO_CONTEXT:]
            found.append(probabilities.reshape(-1))

    for block in blocks:
        samples += len(block)
        audio = np.concatenate([rest, block])
        whole = len(audio) // _SILERO_FRAME * _SILERO_FRAME
        run(audio[:whole].reshape(-1, _SILERO_FRAME))
        rest = audio[whole:]
    if len(rest):
        run(np.pad(rest, (0, _SILERO_FRAME - len(rest)))[None])
    return samples, np.concatenate(found)


@functools.cache
def _silero_session() -> Any:
    file = _silero_file()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # recordings are decoded in several threads as it is
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _silero_file() -> Path:
    package = importlib.util.find_spec("silero_vad")  # looked up, not imported: that would load torch
    folder = Path((package.submodule_search_locations or [""])[0] if package is not None else "")
    file = folder / "data" / "silero_vad_16k_sequence.onnx"
    if package is None or importlib.util.find_spec("onnxruntime") is None or not file.is_file():
        raise MissingDependencyError('vad=silero needs Silero VAD and ONNX Runtime: pip install "redimnet-mrl[vad]"')
    return file

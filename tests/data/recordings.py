"""Small recordings for tests of corpora, and a way to examine them that dies on one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import soundfile

from mrl.audio.examining import Stretch, StretchFacts, examine_all

RATE = 8000
"""Hz: half the usual, for speed."""


def noise(seed: int, seconds: float = 0.6, *, level: float = 0.1) -> np.ndarray:
    """Noise (samples,) whose loudest sample has the magnitude ``level``."""
    samples = np.random.default_rng(seed).standard_normal(round(seconds * RATE)).astype(np.float32)
    return np.asarray(level * samples / np.abs(samples).max(), dtype=np.float32)


def write(path: Path, samples: np.ndarray) -> Path:
    """Write ``samples`` at :data:`RATE`, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)  # the same in WAV and FLAC
    soundfile.write(str(path), whole, RATE, subtype="PCM_16")
    return path


def dying_examine_all(stretches: list[Stretch], decode: bool = True) -> list[StretchFacts]:
    """Examine, but end the process at a recording named ``crash.wav``, as a crashing decoder would."""
    if any(stretch.path.name == "crash.wav" for stretch in stretches):
        os._exit(1)
    return examine_all(stretches, decode)


def dying_at_once(stretches: list[Stretch], decode: bool = True) -> list[StretchFacts]:
    """End the process whatever it is asked."""
    os._exit(1)

"""Small stand-ins for networks and recordings: a tone is a "voice", and its spectrum is the embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor, nn

from mrl.embeddings import Embedder
from mrl.errors import InputError

SAMPLE_RATE = 16000
BANDS = 24


class SpectrumBackbone(nn.Module):
    """Obeys the backbone's interface; the raw embedding is a fixed mixture of log band energies."""

    embed_dim = 12
    minimum_samples = 400

    def __init__(self) -> None:
        super().__init__()
        self.mixture = nn.Linear(BANDS, self.embed_dim, bias=False)
        with torch.no_grad():
            self.mixture.weight.copy_(torch.linspace(-1, 1, BANDS * self.embed_dim).cos().reshape(self.embed_dim, BANDS))
        self.dropout = nn.Dropout(0.5)
        self.batches: list[list[int]] = []

    def pooled_statistics(self, audio: Any) -> Tensor:
        self.batches.append([len(waveform) for waveform in audio])
        rows = []
        for waveform in audio:
            if len(waveform) < self.minimum_samples:
                raise InputError(f"audio has {len(waveform)} samples; the network needs at least {self.minimum_samples}")
            power = torch.fft.rfft(torch.as_tensor(waveform), n=8192).abs().square()[:4080]
            rows.append(torch.log(power.reshape(BANDS, -1).mean(1) + 1e-6))
        return self.dropout(torch.stack(rows))

    def embed_pooled(self, pooled: Tensor) -> Tensor:
        return self.mixture(pooled)

    def forward(self, audio: Any) -> Tensor:
        return self.embed_pooled(self.pooled_statistics(audio))


class SpectrumMatryoshka(nn.Module):
    """Obeys the Matryoshka model's interface."""

    embed_dim = 16
    mrl_dims = (4, 8, 16)
    backbone_is_unmodified = True

    def __init__(self) -> None:
        super().__init__()
        self.backbone = SpectrumBackbone()
        self.head = nn.Linear(BANDS, self.embed_dim, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.arange(BANDS * self.embed_dim).float().sin().reshape(self.embed_dim, BANDS))

    def pooled_statistics(self, audio: Any) -> Tensor:
        return self.backbone.pooled_statistics(audio)

    def project(self, pooled: Tensor) -> Tensor:
        return self.head(pooled - pooled.mean(1, keepdim=True))


class FunctionEmbedder(Embedder):
    """The least that a kind of model needs: a hash, and a function from a waveform to its embedding."""

    def __init__(self, name: str, embed_dim: int, function: Callable[[Any], Any], *, model_hash: str = "a" * 64) -> None:
        super().__init__(name, embed_dim)
        self.function, self.hash = function, model_hash

    @property
    def model_hash(self) -> str:
        return self.hash

    def raw(self, waveforms: Sequence[Any]) -> np.ndarray:
        return np.stack([np.asarray(self.function(waveform), dtype=np.float32) for waveform in waveforms])


def write_tone(path: Path, *, hertz: float, seconds: float = 0.3, seed: int = 0) -> Path:
    """Write a noisy tone."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    noise = np.random.default_rng(seed).standard_normal(len(time))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, (0.3 * np.sin(2 * np.pi * hertz * time) + 0.02 * noise).astype(np.float32), SAMPLE_RATE)
    return path


def write_corpus(root: Path, *, num_speakers: int = 6, per_speaker: int = 3) -> list[str]:
    """Write ``speakerN/M.wav`` tones of unequal lengths; return their names relative to ``root``."""
    names = []
    for speaker in range(num_speakers):
        for number in range(per_speaker):
            name = f"speaker{speaker}/{number}.wav"
            tone = 300 + 700 * speaker + 25 * number
            write_tone(root / name, hertz=tone, seconds=0.1 + 0.07 * ((speaker + 2 * number) % 5), seed=7 * speaker + number)
            names.append(name)
    return names


def all_pairs(names: list[str]) -> list[tuple[bool, str, str]]:
    """Return every pair of utterances as a trial; the folder is the speaker."""
    pairs = [(first, second) for position, first in enumerate(names) for second in names[position + 1 :]]
    return [(first.split("/")[0] == second.split("/")[0], first, second) for first, second in pairs]

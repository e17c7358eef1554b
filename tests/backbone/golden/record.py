"""Record the golden outputs again; only while the tests against the official outputs pass."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from tests.backbone.networks import filled_network, uniform

FOLDER = Path(__file__).parent


def golden_waveform() -> np.ndarray:
    """A gliding harmonic tone with pauses and a little noise: 0.45 s, 16-bit PCM at 16 kHz."""
    time = np.arange(7200) / 16000
    phase = 2 * np.pi * (110 * time + 90 * time**2)
    tone = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 25))
    gate = 0.5 - 0.5 * np.cos(2 * np.pi * 5 * time)
    signal = 0.1 * tone * gate + 0.003 * uniform("noise", time.shape)
    return np.round(signal * 2**15).astype(np.int16)


def record() -> None:
    """Write ``waveform.npy`` and an ``.npz`` for every ``.json`` in this folder."""
    waveform = golden_waveform()
    np.save(FOLDER / "waveform.npy", waveform)
    for path in sorted(FOLDER.glob("*.json")):
        network = filled_network(json.loads(path.read_text()))
        with torch.inference_mode():
            pooled, embedding = network.pooled_statistics(waveform)[0], network(waveform)
        np.savez(path.with_suffix(".npz"), pooled=pooled.numpy(), embedding=embedding.numpy())


if __name__ == "__main__":
    record()

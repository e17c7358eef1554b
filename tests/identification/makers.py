"""Embeddings that behave like those of a Matryoshka model: clustered by speaker, most energy in the first dims."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mrl.identification import VoiceStore

MODEL = "a" * 64


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def speakers(count: int, dim: int = 256, seed: int = 0) -> np.ndarray:
    scale = 1.0 / (1.0 + np.arange(dim) / 32)
    return unit(np.random.default_rng(seed).standard_normal((count, dim)) * scale)


def same_speakers(means: np.ndarray, noise: float = 0.7, seed: int = 1) -> np.ndarray:
    return unit(means + noise * speakers(len(means), means.shape[1], seed))


def filled_store(path: Path, count: int, *, dim: int = 8, form: str = "float32", seed: int = 0) -> VoiceStore:
    store = VoiceStore.open_or_create(path, embed_dim=dim, form=form)  # type: ignore[arg-type]
    for number, row in enumerate(speakers(count, dim, seed)):
        store.add(f"v{number:04d}", row[None], [1.0 + number], model_hash=MODEL)
    return store

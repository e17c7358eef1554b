"""What a store tells of a voice, and what names voices may have."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from mrl.errors import InputError

_LONGEST_NAME = 200


@dataclass(frozen=True)
class Voice:
    """An enrolled voice, without its embeddings.

    Attributes:
        name: unique in the store.
        recordings: how many it was made from.
        seconds: their durations together.
        model_hash: of the weights that made the embeddings.
        calibration_hash: of the model's calibration when the voice was enrolled; empty without one.
        enrolled_at, updated_at: UTC, ISO 8601.
    """

    name: str
    recordings: int
    seconds: float
    model_hash: str
    calibration_hash: str
    enrolled_at: str
    updated_at: str


@dataclass(frozen=True)
class StoredRecording:
    """One recording of a voice: its duration and its embedding, encoded in the store's format."""

    seconds: float
    embedding: bytes


@dataclass(frozen=True)
class StoredVoice:
    """Everything that the store holds of a voice."""

    name: str
    model_hash: str
    calibration_hash: str
    enrolled_at: str
    updated_at: str
    recordings: tuple[StoredRecording, ...]


def clean_name(name: str) -> str:
    """Return a voice's name as it is stored: without white space at the ends, Unicode composed (NFC).

    Raises:
        InputError: it is empty, too long, or holds control characters.
    """
    cleaned = unicodedata.normalize("NFC", name).strip()
    printable = cleaned.isprintable()  # refuses control characters and lone surrogates
    if not cleaned or len(cleaned) > _LONGEST_NAME or not printable:
        raise InputError(f"a voice's name has 1 to {_LONGEST_NAME} printable characters; found {name[:_LONGEST_NAME]!r}")
    return cleaned

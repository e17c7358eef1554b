"""A pair of inputs and expected embeddings beside every exported file, and the check that runs it again."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.deployment.formats import card_of, files_of, self_test_of
from mrl.deployment.parity import row_cosines
from mrl.deployment.precision import MINIMUM_COSINE
from mrl.deployment.reference import Reference, synthetic_speech
from mrl.deployment.runners import open_runner
from mrl.errors import CheckpointError, ExportError, InputError
from mrl.files import atomic_path, sha256_of

Matrix = npt.NDArray[np.float32]

SELF_TEST_FORMAT = "redimnet-mrl-self-test/1"
_SECONDS = (1.0, 2.5)
_SEED = 1


@dataclass(frozen=True)
class CheckedFile:
    """What a check of an exported file found.

    Attributes:
        path: the file.
        precision: its precision.
        cosine: smallest cosine with the embeddings that the network gave when the file was written.
        minimum: the smallest that is accepted.
    """

    path: Path
    precision: str
    cosine: float
    minimum: float


def write_self_test(reference: Reference, path: Path) -> None:
    """Write inputs and the embeddings that PyTorch gives for them, as safetensors, atomically.

    ``input_N`` is what the file takes, ``(1, samples)`` or ``(1, frames, bands)``, ``expected_N`` the raw embedding ``(1, dim)``.
    """
    from safetensors.numpy import save

    tensors: dict[str, npt.NDArray[Any]] = {}
    for number, seconds in enumerate(_SECONDS):
        waveform = synthetic_speech(1, seconds, sample_rate=reference.sample_rate, seed=_SEED + number)
        tensors[f"input_{number}"] = np.ascontiguousarray(reference.feed(waveform))
        tensors[f"expected_{number}"] = np.ascontiguousarray(reference.raw(waveform))
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors, metadata={"format": SELF_TEST_FORMAT}))


def check_export(path: str | os.PathLike[str]) -> CheckedFile:
    """Check an exported file: that it is the one that was written, and that it still gives the embeddings of its self-test.

    Raises:
        InputError: no such file.
        CheckpointError: the file, or what belongs beside it, is missing, damaged or of another export.
        ExportError: the embeddings are others.
        MissingDependencyError: the runtime of this format is not installed.
    """
    file = Path(path).expanduser()
    parts = files_of(file)
    absent = [part for part in parts if not part.is_file()]
    if absent:
        raise InputError(f"{absent[0]} does not exist or is no file; give a file that mrl export wrote")
    card = _read_card(card_of(file))
    for part in parts:
        if card.get("files", {}).get(part.suffix) != sha256_of(part):
            raise CheckpointError(
                f"{part} is not the file that {card_of(file).name} beside it describes (SHA-256 differs); "
                "copy both again, or export the model again"
            )
    runner = open_runner(file)
    minimum = MINIMUM_COSINE[runner.description.precision]  # type: ignore[index]
    smallest = 1.0
    for fed, expected in _read_pairs(self_test_of(file)):
        found = runner(fed)
        if found.raw.shape != expected.shape:
            raise ExportError(f"{file} gives {found.raw.shape}; its self-test expects {expected.shape}")
        smallest = float(np.min([smallest, row_cosines(expected, found.raw).min(), row_cosines(expected, found.embedding).min()]))
    if not smallest >= minimum:
        raise ExportError(
            f"{file} gives other embeddings than when it was written: cosine {smallest:.6f}, at least {minimum:g} is required; "
            "the runtime on this machine computes wrongly, or the self-test is of another model"
        )
    return CheckedFile(file, runner.description.precision, smallest, minimum)


def _read_card(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; copy it together with the exported file")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}); copy it again") from error
    return values if isinstance(values, dict) else {}


def _read_pairs(path: Path) -> list[tuple[Matrix, Matrix]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"{path} is missing; copy it together with the exported file")
    try:
        with safe_open(path, framework="numpy") as archive:
            names = set(archive.keys())
            count = sum(name.startswith("input_") for name in names)
            pairs = [(archive.get_tensor(f"input_{number}"), archive.get_tensor(f"expected_{number}")) for number in range(count)]
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({' '.join(str(error).split())[:120]}); copy it again") from error
    if not pairs:
        raise CheckpointError(f"{path} holds no self-test; copy it again")
    return pairs

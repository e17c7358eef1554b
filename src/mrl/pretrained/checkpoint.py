"""Reading and writing the official checkpoint format: a pickled ``{"model_config": {...}, "state_dict": {...}}``.

Files are opened with ``weights_only=True``: tensors and plain values only, no code is ever run.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mrl.errors import CheckpointError
from mrl.files import atomic_path, sha256_of

logger = logging.getLogger(__name__)

# How torch.save began every file before it wrote zip archives (PyTorch 1.5 and older, or asked for).
_LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
_ADVICE = "fetch it again (force_reload=True) or pass another file as weights="


@dataclass(frozen=True)
class OfficialCheckpoint:
    """An official checkpoint in memory, on the CPU, with subnormal weights set to zero."""

    model_config: dict[str, Any]
    """Keyword arguments of the official network; what the network must be built from."""
    state_dict: dict[str, torch.Tensor]
    """Tensors under their official names."""
    sha256: str
    path: Path


def read_official_checkpoint(path: str | os.PathLike[str], *, sha256: str | None = None) -> OfficialCheckpoint:
    """Read an official checkpoint.

    Weights smaller than the smallest normal float32 (dead channels in some released files) are set to zero, because arithmetic on
    them is an order of magnitude slower on CPUs; their number is logged.

    Args:
        path: the file.
        sha256: its hash where the caller has just computed it.

    Raises:
        CheckpointError: the file is absent, truncated, not a checkpoint, holds code, or lacks what it must hold.
    """
    file = Path(path)
    model_config, state_dict = read_contents(file, shown_as=str(file))
    return OfficialCheckpoint(model_config, state_dict, sha256 or sha256_of(file), file)


def read_contents(file: Path, *, shown_as: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read ``model_config`` and ``state_dict``; errors call the file ``shown_as``.

    Raises:
        CheckpointError: as :func:`read_official_checkpoint`.
    """
    contents = _unpickle(file, shown_as)
    model_config, state_dict = _checked(contents, shown_as)
    flushed, tensors = flush_subnormals(state_dict)
    if flushed:
        logger.info("%s: %d subnormal weights set to zero", shown_as, flushed)
    return model_config, tensors


def write_official_checkpoint(
    path: str | os.PathLike[str], model_config: Mapping[str, Any], state_dict: Mapping[str, torch.Tensor]
) -> None:
    """Write a checkpoint that the official code and :func:`read_official_checkpoint` can load.

    The file appears under its name only when complete.

    Raises:
        CheckpointError: a value could not be read back with ``weights_only=True``.
        OSError: the file cannot be written.
    """
    plain_config, _ = _checked({"model_config": dict(model_config), "state_dict": dict(state_dict)}, str(path))
    _require_plain(plain_config, "model_config", str(path))
    # Copies, so that views do not drag the whole of their storage into the file.
    tensors = {name: tensor.detach().to("cpu").clone().contiguous() for name, tensor in state_dict.items()}
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        # Saved through a stream: torch writes a file's name into the archive, and the temporary name is random.
        torch.save({"model_config": plain_config, "state_dict": tensors}, stream)


def flush_subnormals(state_dict: Mapping[str, torch.Tensor]) -> tuple[int, dict[str, torch.Tensor]]:
    """Set weights w with 0 < |w| < ``torch.finfo(torch.float32).tiny`` to zero; return their number and the new state dict."""
    tiny = torch.finfo(torch.float32).tiny
    flushed = 0
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in state_dict.items():
        tensors[name] = tensor
        if tensor.is_floating_point():
            subnormal = (tensor != 0) & (tensor.abs() < tiny)
            count = int(subnormal.sum())
            if count:
                flushed += count
                tensors[name] = tensor.masked_fill(subnormal, 0.0)
    return flushed, tensors


def _unpickle(file: Path, shown_as: str) -> object:
    try:
        with file.open("rb") as stream:
            head = stream.read(512)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {shown_as}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {shown_as}: {error.strerror or error}") from error
    if not head:
        raise CheckpointError(f"{shown_as} is empty; {_ADVICE}")
    if head.lstrip()[:1] == b"<":
        raise CheckpointError(f"{shown_as} is a web page, not a checkpoint; {_ADVICE}")
    if head.startswith(b"\x80") and not head.startswith(_LEGACY_MAGIC):
        raise CheckpointError(
            f"{shown_as} is a plain Python pickle, which may run code; it was not opened: use a file written by torch.save"
        )
    if not head.startswith((b"PK", _LEGACY_MAGIC)):
        raise CheckpointError(f"{shown_as} is not a PyTorch checkpoint; {_ADVICE}")
    if head.startswith(b"PK") and not zipfile.is_zipfile(file):
        # The directory of a zip archive is at its end.
        raise CheckpointError(f"{shown_as} is truncated: its end is missing; {_ADVICE}")
    try:
        contents: object = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if foreign is not None:
            raise CheckpointError(
                f"{shown_as} refers to code ({foreign.group(1)}), not only to tensors and plain values; it was not opened, as "
                "that code could run: use the official file, or save one again as {'model_config': ..., 'state_dict': ...}"
            ) from error
        raise CheckpointError(f"{shown_as} is not a PyTorch checkpoint, or is damaged; {_ADVICE}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {shown_as}: {error.strerror or error}") from error
    except Exception as error:  # torch.load raises RuntimeError, EOFError, KeyError, UnicodeDecodeError ... for damaged bytes
        reason = " ".join(str(error).split())[:160]
        found = f"{shown_as} is not a PyTorch checkpoint, or is damaged ({type(error).__name__}: {reason})"
        raise CheckpointError(f"{found}; {_ADVICE}") from error
    return contents


def _checked(contents: object, shown_as: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    expected = "an official checkpoint is a dict with 'model_config' and 'state_dict'"
    if not isinstance(contents, Mapping):
        raise CheckpointError(f"{shown_as} holds a {type(contents).__name__}; {expected}")
    if contents and all(isinstance(value, torch.Tensor) for value in contents.values()):
        raise CheckpointError(f"{shown_as} is a bare state_dict without the network's model_config; {expected}")
    missing = [key for key in ("model_config", "state_dict") if key not in contents]
    if missing:
        found = ", ".join(repr(key) for key in list(contents)[:8]) or "nothing"
        raise CheckpointError(f"{shown_as} lacks {' and '.join(map(repr, missing))} (found: {found}); {expected}")
    model_config, state_dict = contents["model_config"], contents["state_dict"]
    for key, value in (("model_config", model_config), ("state_dict", state_dict)):
        if not isinstance(value, Mapping):
            raise CheckpointError(f"{shown_as}: {key!r} is a {type(value).__name__}, expected a dict")
        if not value:
            raise CheckpointError(f"{shown_as}: {key!r} is empty")
        for name in value:
            if not isinstance(name, str):
                raise CheckpointError(f"{shown_as}: {key!r} has the key {name!r}, expected names only")
    for name, tensor in state_dict.items():
        if not isinstance(tensor, torch.Tensor):
            raise CheckpointError(f"{shown_as}: state_dict[{name!r}] is a {type(tensor).__name__}, expected a tensor")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{shown_as}: state_dict[{name!r}] holds NaN or infinite values; the file is damaged or its training diverged"
            )
    return dict(model_config), dict(state_dict)


def _require_plain(value: object, where: str, shown_as: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            _require_plain(item, f"{where}[{key!r}]", shown_as)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _require_plain(item, f"{where}[{index}]", shown_as)
    elif value is not None and type(value) not in (bool, int, float, str):
        kind = type(value).__name__
        raise CheckpointError(f"{shown_as}: {where} is a {kind}; a model_config holds numbers, texts, lists and dicts only")

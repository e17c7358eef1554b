"""Reading and writing the official checkpoint format: a pickled ``{"model_config": {...}, "state_dict": {...}}``.

Files are opened with ``weights_only=True``: tensors and plain values only, no code is ever run.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mrl.bounded import brief, open_regular, said
from mrl.errors import CheckpointError
from mrl.files import atomic_path, sha256_of

logger = logging.getLogger(__name__)

# How torch.save began every file before it wrote zip archives (PyTorch 1.5 and older, or asked for).
_LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
_USABLE = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.int32})
_PLAIN = (torch.Tensor, torch.nn.Parameter)
_MOST_VALUES, _DEEPEST = 10_000, 20
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
    model_config, state_dict = _checked(contents, shown_as, most_bytes=file.stat().st_size)
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
    # Copies, so that views do not drag the whole of their storage into the file.
    tensors = {name: tensor.detach().to("cpu").clone().contiguous() for name, tensor in state_dict.items()}
    plain_config, _ = _checked({"model_config": dict(model_config), "state_dict": tensors}, str(path))
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
        with open_regular(file, error=CheckpointError) as stream:
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
    if head.startswith(b"PK") and not _has_directory(file):
        raise CheckpointError(f"{shown_as} is truncated: its end is missing; {_ADVICE}")
    if head.startswith(b"PK"):
        _verify_archive(file, shown_as)
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
        problem = f"{shown_as} is not a PyTorch checkpoint, or is damaged ({type(error).__name__}: {reason})"
        raise CheckpointError(f"{problem}; {_ADVICE}") from error
    return contents


def _has_directory(file: Path) -> bool:
    """Whether a zip archive ends as one should: its directory is at its end."""
    try:
        return zipfile.is_zipfile(file)
    except zipfile.BadZipFile:  # of many disks
        return False


def _verify_archive(file: Path, shown_as: str) -> None:
    """Compare the checksums in a zip archive, and refuse one that would unpack to more than it is: torch.save compresses nothing.

    Raises:
        CheckpointError: it is damaged, or no archive of torch.save's.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members):
                raise CheckpointError(f"{shown_as} is a compressed archive, which torch.save does not write; {_ADVICE}")
            if size > file.stat().st_size:
                raise CheckpointError(f"{shown_as} would unpack to {size:,} bytes, more than it has; {_ADVICE}")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError, struct.error) as error:
        raise CheckpointError(f"{shown_as} is a damaged archive ({said(error)}); {_ADVICE}") from error
    if damaged is not None:
        raise CheckpointError(f"{shown_as} is damaged: the checksum of {brief(damaged)} in it is not right; {_ADVICE}")


def _fault_of(tensor: object, storages: dict[int, int]) -> str:
    """Return what is wrong with a tensor, without looking at its numbers, which may be more than there is memory for."""
    if not isinstance(tensor, torch.Tensor):
        return f"is a {type(tensor).__name__}, expected a tensor"
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu" or type(tensor) not in _PLAIN:
        return f"is a tensor of the kind {tensor.layout}, {tensor.dtype} on {tensor.device}, expected a dense tensor of numbers"
    if tensor.dtype not in _USABLE:
        return f"holds {tensor.dtype}, expected floating-point or whole numbers"
    storage = tensor.untyped_storage()
    if tensor.numel() * tensor.element_size() > storage.nbytes():
        return f"has the shape {tuple(tensor.shape)}, more values than the file holds for it"
    storages[storage.data_ptr()] = storage.nbytes()
    return ""


def _checked(contents: object, shown_as: str, *, most_bytes: int | None = None) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    expected = "an official checkpoint is a dict with 'model_config' and 'state_dict'"
    if not isinstance(contents, Mapping):
        raise CheckpointError(f"{shown_as} holds a {type(contents).__name__}; {expected}")
    if contents and all(isinstance(value, torch.Tensor) for value in contents.values()):
        raise CheckpointError(f"{shown_as} is a bare state_dict without the network's model_config; {expected}")
    missing = [key for key in ("model_config", "state_dict") if key not in contents]
    if missing:
        keys = ", ".join(brief(key) for key in list(contents)[:8]) or "nothing"
        raise CheckpointError(f"{shown_as} lacks {' and '.join(map(repr, missing))} (found: {keys}); {expected}")
    model_config, state_dict = contents["model_config"], contents["state_dict"]
    for key, value in (("model_config", model_config), ("state_dict", state_dict)):
        if not isinstance(value, Mapping):
            raise CheckpointError(f"{shown_as}: {key!r} is a {type(value).__name__}, expected a dict")
        if not value:
            raise CheckpointError(f"{shown_as}: {key!r} is empty")
        for name in value:
            if not isinstance(name, str):
                raise CheckpointError(f"{shown_as}: {key!r} has the key {brief(name)}, expected names only")
    _require_plain(model_config, "model_config", shown_as)
    storages: dict[int, int] = {}
    for name, tensor in state_dict.items():
        wrong = _fault_of(tensor, storages)
        if wrong:
            raise CheckpointError(f"{shown_as}: state_dict[{brief(name)}] {wrong}")
    held = sum(storages.values())
    if most_bytes is not None and held > most_bytes:
        raise CheckpointError(f"{shown_as} describes tensors of {held:,} bytes, more than it has; {_ADVICE}")
    for name, tensor in state_dict.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{shown_as}: state_dict[{brief(name)}] holds NaN or infinite values; it is damaged or its training diverged"
            )
    return dict(model_config), dict(state_dict)


def _require_plain(value: object, where: str, shown_as: str) -> None:
    """Refuse a model_config that holds something else than plain values, or stands for too many: a pickle may repeat itself."""
    waiting, count = [(value, where, 0)], 0
    while waiting:
        each, place, depth = waiting.pop()
        count += 1
        if count > _MOST_VALUES or depth > _DEEPEST:
            raise CheckpointError(f"{shown_as}: {where} has more than {_MOST_VALUES:,} values, or is nested too deeply")
        if isinstance(each, Mapping):
            waiting += [(item, f"{place}[{brief(key)}]", depth + 1) for key, item in each.items()]
        elif isinstance(each, (list, tuple)):
            waiting += [(item, f"{place}[{index}]", depth + 1) for index, item in enumerate(each)]
        elif each is not None and type(each) not in (bool, int, float, str):
            kind = type(each).__name__
            raise CheckpointError(f"{shown_as}: {place} is a {kind}; a model_config holds numbers, texts, lists and dicts only")

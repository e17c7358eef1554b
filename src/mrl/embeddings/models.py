"""From what a user names to a network: a model folder, an official checkpoint, an exported file, or a released model."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from mrl.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from mrl.backbone import ReDimNet
    from mrl.embeddings.encoders import Encoder, ExportedEncoder
    from mrl.matryoshka import ReDimNetMRL

EXPORTED_SUFFIX = ".onnx"
CHECKPOINT_SUFFIXES = (".pt", ".pth", EXPORTED_SUFFIX)
"""Of files that hold a network with its weights."""


def open_model(
    spec: str | os.PathLike[str], *, weights: str | os.PathLike[str] | None = None, device: str | torch.device = "cpu"
) -> ReDimNet | ReDimNetMRL | ExportedEncoder:
    """Open the network that ``spec`` names, in evaluation mode.

    Args:
        spec: a folder written by ``ReDimNetMRL.save_pretrained``; an official checkpoint (``.pt``); a file that ``mrl export``
            wrote (``.onnx``); or the name of a released model, such as ``b2-vox2-ft_lm`` or ``b2`` (see ``mrl pretrained list``).
        weights: for a released name, where its file is: a file, an address, or a folder of such files.
        device: where the network goes, such as ``cpu`` or ``cuda:0``; an exported file runs on the CPU only.

    Raises:
        InputError: no such file, folder, released model or device.
        CheckpointError: the folder or file is damaged or of another kind.
        DownloadError: a released model is not here and cannot be fetched.
    """
    from mrl.pretrained import load_pretrained_redimnet

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {str(device)!r} cannot be used here: {' '.join(str(error).split())[:120]}") from error
    text = os.fspath(spec)
    path = Path(text).expanduser()
    is_file = path.suffix.lower() in CHECKPOINT_SUFFIXES
    if (path.is_dir() or is_file) and weights is not None:
        raise InputError(f"weights are for a released model's name; {text} is a file or folder with weights of its own")
    if path.is_dir():
        from mrl.matryoshka import ReDimNetMRL

        if not (path / "config.json").is_file():
            raise CheckpointError(f"{path} is no model folder: it has no config.json; give one written by save_pretrained")
        return ReDimNetMRL.from_pretrained(path, device=device).eval()
    if is_file:
        if not path.is_file():
            raise InputError(f"checkpoint {path} does not exist")
        if path.suffix.lower() == EXPORTED_SUFFIX:
            return _open_exported(path, device)
        return load_pretrained_redimnet(weights=path, device=device)
    from mrl.pretrained import find_by_name

    released = find_by_name(text)
    return load_pretrained_redimnet(released.model_name, released.train_type, released.dataset, weights=weights, device=device)


def weights_sha256(model: Encoder | nn.Module) -> str:
    """Return a hash of all weights and buffers with their names; it does not depend on the file they were loaded from.

    An exported file carries the hash of the network that it was made from (and another where its arithmetic is another).
    """
    from mrl.embeddings.encoders import ExportedEncoder

    if isinstance(model, ExportedEncoder):
        return model.model_hash
    if not isinstance(model, nn.Module):
        raise InputError(f"a hash of weights needs a torch module, found {type(model).__name__}")
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _open_exported(path: Path, device: str | torch.device) -> ExportedEncoder:
    from mrl.embeddings.encoders import ExportedEncoder, ExportedMatryoshka
    from mrl.runtime import OnnxEmbedder

    if torch.device(device).type != "cpu":
        raise InputError(f"{path} is an exported file, which runs on the CPU here; device {str(device)!r} cannot be used")
    # PyTorch's number of threads is what the user has set for this process.
    embedder = OnnxEmbedder(path, threads=torch.get_num_threads())
    return (ExportedMatryoshka if embedder.description.kind == "matryoshka" else ExportedEncoder)(embedder)

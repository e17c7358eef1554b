"""From what a user names to a network: a folder, an official checkpoint, an exported file, a bundled or a released model."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from mrl.backbone.state_hash import state_sha256
from mrl.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from mrl.backbone import Backbone
    from mrl.embeddings.encoders import Encoder, ExportedEncoder
    from mrl.matryoshka import ReDimNetMRL

logger = logging.getLogger(__name__)

EXPORTED_SUFFIX = ".onnx"
CHECKPOINT_SUFFIXES = (".pt", ".pth", EXPORTED_SUFFIX)
"""Of files that hold a network with its weights."""


def open_model(
    spec: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    depth: int | None = None,
) -> Backbone | ReDimNetMRL | ExportedEncoder:
    """Open the network that ``spec`` names, in evaluation mode.

    Args:
        spec: a folder written by ``ReDimNetMRL.save_pretrained``; an official checkpoint (``.pt``); a file that ``mrl export``
            wrote (``.onnx``); the name of a model that comes with the package, such as ``mrl-b0-demo``; or that of a released
            model, such as ``b2-vox2-ft_lm`` or ``b2`` (see ``mrl pretrained list``). A folder of that name wins.
        weights: for a released name, where its file is: a file, an address, or a folder of such files.
        device: where the network goes, such as ``cpu`` or ``cuda:0``; an exported file runs on the CPU only.
        depth: leave a model folder's network after so many stages, see :meth:`ReDimNetMRL.at_depth`; None for the whole network.

    Raises:
        InputError: no such file, folder, released model, device or depth.
        CheckpointError: the folder or file is damaged or of another kind.
        DownloadError: a released model is not here and cannot be fetched.
    """
    from mrl.pretrained import bundled_names, find_bundled, find_by_name, load_pretrained_redimnet

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
        return _at_depth(ReDimNetMRL.from_pretrained(path, device=device), depth)
    if is_file:
        if not path.is_file():
            raise InputError(f"checkpoint {path} does not exist")
        _refuse_depth(text, depth)
        if path.suffix.lower() == EXPORTED_SUFFIX:
            return _open_exported(path, device)
        return load_pretrained_redimnet(weights=path, device=device)
    bundled = find_bundled(text)
    if bundled is not None:
        if weights is not None:
            raise InputError(f"weights are for a released model's name; {text} comes with the package and has weights of its own")
        from mrl.matryoshka import ReDimNetMRL

        logger.info("%s", bundled.release.notice)
        return _at_depth(ReDimNetMRL.from_pretrained(bundled.folder, device=device), depth)
    try:
        released = find_by_name(text)
    except InputError as error:
        raise InputError(f"{error}; in the package: {', '.join(bundled_names()) or 'none'}") from None
    _refuse_depth(text, depth)  # before anything is downloaded
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
    # Early exits change nothing in the embedding of the whole network, which this stands for.
    return state_sha256(model, without="exits.")


def _at_depth(model: ReDimNetMRL, depth: int | None) -> ReDimNetMRL:
    return model.eval() if depth is None or depth == model.depths[-1] else model.at_depth(depth)


def _refuse_depth(spec: str, depth: int | None) -> None:
    if depth is None:
        return
    if spec.lower().endswith(EXPORTED_SUFFIX):
        raise InputError(f"{spec} is an exported file, which has no exits; export one of the model folder (mrl export --depth)")
    raise InputError(
        f"{spec} is a plain ReDimNet without exits, so depth={depth} is not available; mrl fit-exits makes a "
        "model folder that has some"
    )


def _open_exported(path: Path, device: str | torch.device) -> ExportedEncoder:
    from mrl.embeddings.encoders import ExportedEncoder, ExportedMatryoshka
    from mrl.runtime import OnnxEmbedder

    if torch.device(device).type != "cpu":
        raise InputError(f"{path} is an exported file, which runs on the CPU here; device {str(device)!r} cannot be used")
    # PyTorch's number of threads is what the user has set for this process.
    embedder = OnnxEmbedder(path, threads=torch.get_num_threads())
    return (ExportedMatryoshka if embedder.description.kind == "matryoshka" else ExportedEncoder)(embedder)

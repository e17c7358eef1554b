"""From what a user names to a model: a folder, an official checkpoint, an exported file, a bundled or a released model.

torch is imported where a network is opened, not for an exported file.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrl.dims import DEFAULT_MODEL
from mrl.embeddings.embedder import Embedder, ExportedEmbedder
from mrl.errors import CheckpointError, InputError
from mrl.pretrained.hub import is_hub_name

if TYPE_CHECKING:
    import torch

    from mrl.backbone import Backbone
    from mrl.matryoshka import ReDimNetMRL

logger = logging.getLogger(__name__)

EXPORTED_SUFFIX = ".onnx"
CHECKPOINT_SUFFIXES = (".pt", ".pth", EXPORTED_SUFFIX)
"""Of files that hold a network with its weights."""


def load_model(
    name_or_path: str | os.PathLike[str] = DEFAULT_MODEL,
    *,
    device: str = "cpu",
    depth: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    revision: str | None = None,
) -> Embedder:
    """Load a model and use it: ``load_model().similarity("a.wav", "b.wav")``.

    Args:
        name_or_path: a model that comes with the package (the default, offline), a released one such as ``"b2"`` (downloaded at
            first use), a model folder, a repository ``"org/name"`` of the Hugging Face Hub, an official checkpoint (``.pt``), or
            an exported file (``.onnx``).
        device: where a network goes, such as ``"cuda"``.
        depth: stop after N stages (early exit) of a model folder's network.
        weights: for a released model's name, where its file is.
        revision: branch, tag or commit of a repository on the Hub.

    Raises:
        InputError, CheckpointError, DownloadError, MissingDependencyError: as for :func:`open_embedder`, which this is.
    """
    return open_embedder(name_or_path, weights=weights, device=device, depth=depth, revision=revision)


def open_embedder(
    spec: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    depth: int | None = None,
    threads: int | None = None,
    revision: str | None = None,
) -> Embedder:
    """Open the model that ``spec`` names.

    Args:
        spec: a model folder, an official checkpoint, the name of a released or bundled model (see
            :func:`mrl.embeddings.open_model`), a repository ``org/name`` or ``org/name@revision`` of the Hub, or an ``.onnx``
            file that ``mrl export`` wrote, for which torch is not needed.
        weights: for a released model's name, where its file is.
        device: where a network in torch goes.
        depth: stop after this many stages (early exit) of a model folder's network; None for the whole network.
        revision: of a repository on the Hub.
        threads: of one call of an ``.onnx`` file; a network goes by ``torch.set_num_threads``.

    Raises:
        InputError: no such model, device or depth.
        CheckpointError: a damaged model.
        DownloadError: a released model cannot be fetched.
        MissingDependencyError: an ``.onnx`` file without ONNX Runtime.
    """
    text = os.fspath(spec)
    if Path(text).suffix.lower() == EXPORTED_SUFFIX and not is_hub_name(text):
        if revision is not None:
            raise InputError(f"{text} is a file, so it has no revision {revision!r}")
        if weights is not None:
            raise InputError(f"weights are for a released model's name; {text} has weights of its own")
        if device != "cpu":
            raise InputError(f"{text} is an exported file, which runs on the CPU; device {device!r} cannot be used")
        if depth is not None:
            raise InputError(
                f"{text} is an exported file, which has no exits; export one of the model folder (mrl export --depth)"
            )
        return ExportedEmbedder(text, threads=threads)
    from mrl.embeddings.networks import NetworkEmbedder
    from mrl.pretrained import model_folder

    folder = model_folder(Path(text).expanduser(), revision=revision)
    place = folder if is_hub_name(text) else text  # what was fetched is not asked for again
    network = open_model(place, weights=weights, device=device, depth=depth)
    return NetworkEmbedder(network, text, folder=folder if folder.is_dir() else None)


def open_model(
    spec: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    depth: int | None = None,
) -> Backbone | ReDimNetMRL | Embedder:
    """Open the network that ``spec`` names, in evaluation mode.

    Args:
        spec: a folder written by ``ReDimNetMRL.save_pretrained``; an official checkpoint (``.pt``); a file that ``mrl export``
            wrote (``.onnx``, which gives an :class:`Embedder`); the name of a model that comes with the package, such as
            ``mrl-b0-demo``; or that of a released model, such as ``b2-vox2-ft_lm`` or ``b2`` (see ``mrl pretrained list``). A
            folder of that name wins.
        weights: for a released name, where its file is: a file, an address, or a folder of such files.
        device: where the network goes, such as ``cpu`` or ``cuda:0``; an exported file runs on the CPU only.
        depth: stop after this many stages (early exit) of a model folder's network, see :meth:`ReDimNetMRL.at_depth`; None for
            the whole network.

    Raises:
        InputError: no such file, folder, released model, device or depth.
        CheckpointError: the folder or file is damaged or of another kind.
        DownloadError: a released model is not here and cannot be fetched.
    """
    import torch

    from mrl.pretrained import bundled_names, find_bundled, find_by_name, load_pretrained_redimnet, model_folder

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
        if path.suffix.lower() == EXPORTED_SUFFIX:
            return open_embedder(spec, device=str(device), depth=depth)
        if not path.is_file():
            raise InputError(f"checkpoint {path} does not exist")
        _refuse_depth(text, depth)
        return load_pretrained_redimnet(weights=path, device=device)
    if is_hub_name(text):
        return open_model(model_folder(text), device=device, depth=depth)
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


def as_embedder(model: Any) -> Embedder:
    """Return an embedder for a network in torch; an embedder is returned as it is.

    Raises:
        InputError: it is neither.
    """
    if isinstance(model, Embedder):
        return model
    from mrl.embeddings.networks import NetworkEmbedder

    return NetworkEmbedder(model)


def _at_depth(model: ReDimNetMRL, depth: int | None) -> ReDimNetMRL:
    return model.eval() if depth is None or depth == model.depths[-1] else model.at_depth(depth)


def _refuse_depth(spec: str, depth: int | None) -> None:
    if depth is not None:
        raise InputError(
            f"{spec} is a plain ReDimNet without exits, so depth={depth} is not available; mrl fit-exits makes a "
            "model folder that has some"
        )

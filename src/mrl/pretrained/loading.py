"""From a name or a file to the exact official network, ready for inference."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from mrl.backbone import Backbone, backbone_from_official
from mrl.errors import CheckpointError, ConfigError, InputError
from mrl.pretrained.checkpoint import read_official_checkpoint
from mrl.pretrained.download import LocalCheckpoint, cached_checkpoint, fetch_checkpoint, is_mirror, resolve_weights
from mrl.pretrained.hub import fetch_hub_checkpoint, is_hub_name, split_hub_name
from mrl.pretrained.registry import PretrainedCheckpoint, find_by_file_name, find_checkpoint, list_pretrained

_DEFAULT_MODEL = "b2"


@dataclass(frozen=True)
class CheckpointReport:
    """What :func:`verify_checkpoint` found out about a file that is in order."""

    path: Path
    sha256: str
    hash_check: str
    """What the hash was compared with: ``published``, ``first use`` or ``none``."""
    num_bytes: int
    num_parameters: int
    """Trainable parameters of the network; BatchNorm's running statistics are not counted."""
    embed_dim: int
    checkpoint: PretrainedCheckpoint | None
    """Which released file it is, where known."""


def load_pretrained_redimnet(
    model_name: str | None = None,
    train_type: str | None = None,
    dataset: str | None = None,
    *,
    weights: str | os.PathLike[str] | None = None,
    force_reload: bool = False,
    device: str | torch.device = "cpu",
    progress: bool = True,
    revision: str | None = None,
    token: str | None = None,
) -> Backbone:
    """Load a released ReDimNet exactly, in eval mode.

    The network is built from the checkpoint's own ``model_config`` and loaded strictly. The file comes from torch.hub's cache, or
    is downloaded into it (see :func:`mrl.pretrained.fetch_checkpoint`).

    Args:
        model_name: ``b0`` to ``b6``, ``S`` or ``M``; of the second generation ``redimnet2-b0`` to ``redimnet2-b6``. None: ``b2``,
            or whatever ``weights`` holds. ``org/name`` is a repository of the Hugging Face Hub that holds one checkpoint (.pt).
        train_type: ``ptn``, ``ft_lm`` (b0 to b6) or ``ft_mix`` (S and M); of the second generation ``ptn``, ``lm`` or ``dis``.
            None: the fine-tuned one.
        dataset: ``vox2`` (b0 to b6 of both generations); ``vb2`` for ptn and ``vb2+vox2+cnc`` for ft_mix of S and M;
            ``vb2+vox2_v0`` (redimnet2-b6) and ``vb2+vox2+cnc2_v0`` (redimnet2-b3 and -b6). None: the first that there is.
        weights: a checkpoint file, its http(s) or file address, or a mirror (a folder, or an address ending in ``/``, that holds
            released files). A file (or its address) records what it is; another ``model_name`` is an error.
        force_reload: download again even if the file is in the cache.
        device: where the network goes.
        progress: show a progress bar while downloading (on a terminal only).
        revision, token: of a repository on the Hub, see :func:`mrl.pretrained.fetch_model_folder`.

    Returns:
        The network. ``model(audio)`` gives the raw embedding ``(batch, 192)``. Its attribute ``pretrained_source`` is a dict with
        the file, its SHA-256, and model_name, train_type, dataset and licence (None for a file that is not a released one).

    Raises:
        InputError: no released checkpoint has these names, ``weights`` holds another network than ``model_name`` says, or
            ``weights`` or ``device`` is not usable.
        DownloadError: the file cannot be fetched, or is not the expected one.
        CheckpointError: the file is damaged or does not fit the network.
        ConfigError: the file's ``model_config`` asks for something unknown.
    """
    target = _usable_device(device)
    if model_name is not None and weights is None and is_hub_name(model_name):
        repository, given = split_hub_name(model_name)
        weights = fetch_hub_checkpoint(repository, revision=revision or given, token=token)
    elif revision is not None:
        raise InputError(f"only a repository of the Hub (org/name) has revisions; found {model_name!r} with {revision!r}")
    local = _locate(model_name, train_type, dataset, weights, force_reload, progress)
    local, model = _build(local)
    _refuse_another(model_name, local, model)
    model.eval()
    model.to(target)
    model.pretrained_source = _describe(local)
    return model


def verify_checkpoint(checkpoint: PretrainedCheckpoint | str | os.PathLike[str]) -> CheckpointReport:
    """Check a released checkpoint in the cache, or any local file: hash, readability, and that the network loads it strictly.

    Raises:
        InputError: there is no such file.
        DownloadError: the released checkpoint is not in the cache, or the file is not the expected one.
        CheckpointError: the file is damaged or does not fit the network.
        ConfigError: the file's ``model_config`` asks for something unknown.
    """
    if isinstance(checkpoint, PretrainedCheckpoint):
        local = cached_checkpoint(checkpoint)
        hash_check = "first use" if checkpoint.sha256 is None else "published"
    else:
        local = resolve_weights(checkpoint)
        hash_check = "published" if local.checkpoint is not None and local.checkpoint.sha256 == local.sha256 else "none"
    local, model = _build(local)
    return CheckpointReport(
        path=local.path,
        sha256=local.sha256,
        hash_check=hash_check,
        num_bytes=local.path.stat().st_size,
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        embed_dim=model.embed_dim,
        checkpoint=local.checkpoint,
    )


def _locate(
    model_name: str | None,
    train_type: str | None,
    dataset: str | None,
    weights: str | os.PathLike[str] | None,
    force_reload: bool,
    progress: bool,
) -> LocalCheckpoint:
    # Only the cache and a mirror need the names: a file is what it is.
    if weights is not None and not is_mirror(weights):
        return resolve_weights(weights, force_reload=force_reload, progress=progress)
    checkpoint = find_checkpoint(_DEFAULT_MODEL if model_name is None else model_name, train_type, dataset)
    if weights is None:
        return fetch_checkpoint(checkpoint, force_reload=force_reload, progress=progress)
    return resolve_weights(weights, checkpoint, force_reload=force_reload, progress=progress)


def _build(local: LocalCheckpoint) -> tuple[LocalCheckpoint, Backbone]:
    official = read_official_checkpoint(local.path, sha256=local.sha256)
    try:
        model = backbone_from_official(official.model_config, official.state_dict)
    except (CheckpointError, ConfigError) as error:
        raise type(error)(f"{local.path}: {error}") from error
    if local.checkpoint is not None and local.checkpoint.family != model.family:
        # Released files of two families have one name; what is in the file decides which it is.
        local = dataclasses.replace(local, checkpoint=find_by_file_name(local.path.name, model.family))
    return local, model


def _refuse_another(model_name: str | None, local: LocalCheckpoint, model: Backbone) -> None:
    """Raise an InputError if the file is known to hold another network than was asked for."""
    if model_name is None:
        return
    held = model.size_name() if local.checkpoint is None else local.checkpoint.model_name
    asked_family = next((each.family for each in list_pretrained(model_name)), None)
    if held is None and asked_family not in (None, model.family):
        held = f"a network of the family {model.family}"
    if held is None or held == model_name or asked_family is None:
        return
    raise InputError(
        f"{local.path} holds {held}, but model_name={model_name!r} was asked for; leave the name out, "
        f"or give the file of {model_name}"
    )


def _describe(local: LocalCheckpoint) -> dict[str, str | None]:
    released = local.checkpoint
    return {
        "file": str(local.path),
        "sha256": local.sha256,
        "model_name": None if released is None else released.model_name,
        "train_type": None if released is None else released.train_type,
        "dataset": None if released is None else released.dataset,
        "licence": None if released is None else released.licence,
    }


def _usable_device(device: str | torch.device) -> torch.device:
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device={str(device)!r} cannot be used here: {' '.join(str(error).split())[:160]}") from error
    return target

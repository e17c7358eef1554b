"""Networks in PyTorch: opening what a user names, and embedding with it."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from mrl.backbone.state_hash import state_sha256
from mrl.embeddings.calibrated import ModelCalibration, load_calibration
from mrl.embeddings.embedder import CHECKPOINT_SUFFIXES, EXPORTED_SUFFIX, Embedder, Matrix, Waveform, open_embedder
from mrl.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from mrl.backbone import ReDimNet
    from mrl.matryoshka import ReDimNetMRL

logger = logging.getLogger(__name__)


class Backbone(Protocol):
    """A network that goes from waveforms to a raw embedding by way of pooled statistics, such as ``ReDimNet``."""

    @property
    def embed_dim(self) -> int:
        """Length of the raw embedding."""

    def pooled_statistics(self, audio: Any) -> Tensor:
        """List of waveforms -> (batch, pooled_dim)."""

    def embed_pooled(self, pooled: Tensor) -> Tensor:
        """(batch, pooled_dim) -> raw embedding (batch, embed_dim)."""


class MatryoshkaEncoder(Protocol):
    """A backbone with a Matryoshka head, such as ``ReDimNetMRL``."""

    @property
    def embed_dim(self) -> int:
        """Length of the whole embedding."""

    @property
    def mrl_dims(self) -> tuple[int, ...]:
        """The prefix lengths that it was trained for."""

    @property
    def backbone(self) -> Any:
        """The :class:`Backbone` inside it."""

    def pooled_statistics(self, audio: Any) -> Tensor:
        """List of waveforms -> (batch, pooled_dim)."""

    def project(self, pooled: Tensor) -> Tensor:
        """(batch, pooled_dim) -> raw embedding (batch, embed_dim)."""


Encoder: TypeAlias = "Backbone | MatryoshkaEncoder | Embedder"
"""What recordings can be embedded with."""


def is_matryoshka(model: object) -> TypeIs[MatryoshkaEncoder]:
    """Return whether a network has a Matryoshka head and a backbone to compare it with."""
    return hasattr(model, "mrl_dims") and hasattr(model, "project")


class NetworkEmbedder(Embedder):
    """A network in torch, in evaluation mode while it embeds.

    Args:
        network: a :class:`Backbone` or a :class:`MatryoshkaEncoder`; recordings are moved to its device.
        name: as the user gave it; the name of its class by default.
        folder: the model folder that it is from, where its calibration is kept.
    """

    def __init__(self, network: Any, name: str | None = None, *, folder: str | os.PathLike[str] | None = None) -> None:
        if not hasattr(network, "pooled_statistics"):
            raise InputError(f"recordings are embedded with a network of this package, not with a {type(network).__name__}")
        self.network = network
        self._folder = folder
        super().__init__(
            type(network).__name__ if name is None else name,
            int(network.embed_dim),
            mrl_dims=network.mrl_dims if is_matryoshka(network) else (),
            cut=getattr(network, "cut", None),
            calibration=self._calibration_of_folder,
        )

    @functools.cached_property
    def model_hash(self) -> str:  # type: ignore[override]
        return weights_sha256(self.network)

    def raw(self, waveforms: Sequence[Waveform]) -> Matrix:
        with torch.inference_mode():
            pooled = self.network.pooled_statistics(list(waveforms))
            network = self.network
            return _array(network.project(pooled) if self.mrl_dims else network.embed_pooled(pooled))

    def raw_with_backbone(self, waveforms: Sequence[Waveform]) -> tuple[Matrix, Matrix]:
        if self.backbone is None:
            return super().raw_with_backbone(waveforms)
        with torch.inference_mode():
            pooled = self.network.pooled_statistics(list(waveforms))
            return _array(self.network.project(pooled)), _array(self.network.backbone.embed_pooled(pooled))

    @functools.cached_property
    def backbone(self) -> NetworkEmbedder | None:  # type: ignore[override]
        whole = is_matryoshka(self.network) and self.cut is None
        return NetworkEmbedder(self.network.backbone, f"{self.name} (backbone)") if whole else None

    @property
    def backbone_is_unmodified(self) -> bool:
        return bool(getattr(self.network, "backbone_is_unmodified", False))

    @property
    def device(self) -> str:
        parameters = self.network.parameters() if isinstance(self.network, nn.Module) else iter(())
        return next(parameters, torch.empty(0)).device.type

    @property
    def config(self) -> dict[str, Any] | None:
        config: Any = getattr(getattr(self.network, "backbone", self.network), "config", None)
        return None if config is None else config.to_model_config()

    def ready(self) -> AbstractContextManager[object]:
        return evaluation_mode(self.network)

    def _calibration_of_folder(self) -> ModelCalibration:
        if self._folder is None:
            return ModelCalibration(None)
        if self.cut is not None and load_calibration(self._folder) is not None:
            return ModelCalibration(None, f"a calibration is of the whole network, not of depth {self.depth}")
        found = load_calibration(self._folder)
        return ModelCalibration(None) if found is None else ModelCalibration(found)


def open_network(
    spec: str, *, weights: str | os.PathLike[str] | None = None, device: str = "cpu", depth: int | None = None
) -> Embedder:
    """Open the network that ``spec`` names; see :func:`open_model`."""
    network = open_model(spec, weights=weights, device=device, depth=depth)
    folder = Path(spec).expanduser()
    return NetworkEmbedder(network, spec, folder=folder if folder.is_dir() else None)


def open_model(
    spec: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    depth: int | None = None,
) -> ReDimNet | ReDimNetMRL | Embedder:
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
        if path.suffix.lower() == EXPORTED_SUFFIX:
            return open_embedder(spec, device=str(device), depth=depth)
        if not path.is_file():
            raise InputError(f"checkpoint {path} does not exist")
        _refuse_depth(text, depth)
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
    if isinstance(model, Embedder):
        return model.model_hash
    if not isinstance(model, nn.Module):
        raise InputError(f"a hash of weights needs a torch module, found {type(model).__name__}")
    # Early exits change nothing in the embedding of the whole network, which this stands for.
    return state_sha256(model, without="exits.")


@contextlib.contextmanager
def evaluation_mode(*models: object) -> Iterator[None]:
    """Put networks into evaluation mode while the block runs; afterwards every module is in the mode that it had before."""
    networks = [model.network if isinstance(model, NetworkEmbedder) else model for model in models]
    modules = [module for network in networks if isinstance(network, nn.Module) for module in network.modules()]
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def _array(embeddings: Tensor) -> Matrix:
    matrix: Matrix = embeddings.detach().float().cpu().numpy()
    return matrix


def _at_depth(model: ReDimNetMRL, depth: int | None) -> ReDimNetMRL:
    return model.eval() if depth is None or depth == model.depths[-1] else model.at_depth(depth)


def _refuse_depth(spec: str, depth: int | None) -> None:
    if depth is not None:
        raise InputError(
            f"{spec} is a plain ReDimNet without exits, so depth={depth} is not available; mrl fit-exits makes a "
            "model folder that has some"
        )

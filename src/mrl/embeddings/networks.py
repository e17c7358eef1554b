"""Networks in PyTorch: opening what a user names, and embedding with it."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from mrl.backbone.state_hash import state_sha256
from mrl.embeddings.calibrated import ModelCalibration, load_calibration
from mrl.embeddings.embedder import Embedder, Matrix, Waveform
from mrl.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import TypeIs


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
    def model_hash(self) -> str:
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
    def backbone(self) -> NetworkEmbedder | None:
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

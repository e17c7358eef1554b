"""What a network must offer so that recordings can be embedded with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from torch import Tensor, nn

if TYPE_CHECKING:
    from typing_extensions import TypeIs


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


Encoder: TypeAlias = "Backbone | MatryoshkaEncoder"


def is_matryoshka(model: Encoder) -> TypeIs[MatryoshkaEncoder]:
    """Return whether a network has a Matryoshka head."""
    return hasattr(model, "mrl_dims") and hasattr(model, "project")


@contextlib.contextmanager
def evaluation_mode(*models: object) -> Iterator[None]:
    """Put networks into evaluation mode while the block runs; afterwards every module is in the mode that it had before."""
    modules = [module for model in models if isinstance(model, nn.Module) for module in model.modules()]
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode

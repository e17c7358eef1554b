"""What a network must offer so that recordings can be embedded with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

from torch import Tensor, nn

from mrl.runtime import OnnxEmbedder
from mrl.runtime.embedder import Matrix, unit_prefix

if TYPE_CHECKING:
    from typing import TypeGuard

    from typing_extensions import TypeIs

    from mrl.matryoshka.exits import Cut


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


class ExportedEncoder:
    """An exported plain ReDimNet: it gives raw embeddings, without pooled statistics or gradients. Runs on the CPU."""

    def __init__(self, embedder: OnnxEmbedder) -> None:
        self.embedder = embedder

    @property
    def embed_dim(self) -> int:
        """Length of the whole embedding."""
        return self.embedder.embed_dim

    @property
    def model_hash(self) -> str:
        """The same for models whose embeddings may be mixed."""
        return self.embedder.model_hash

    @property
    def cut(self) -> Cut | None:
        """Where it ends if it is the first stages of another network; None for a whole one."""
        return cast("Cut | None", self.embedder.description.cut)

    @property
    def unit_length(self) -> bool:
        """Whether :meth:`embed` gives embeddings of unit length."""
        return False

    def embed(self, waveforms: list[Any], dim: int) -> Matrix:
        """List of waveforms -> the first ``dim`` numbers of raw embeddings, (batch, dim), as the network itself gives them."""
        return self.embedder.raw(waveforms)[:, :dim]


class ExportedMatryoshka(ExportedEncoder):
    """An exported Matryoshka model: it gives prefixes of unit length, but not its backbone's own embedding."""

    @property
    def mrl_dims(self) -> tuple[int, ...]:
        """The prefix lengths that it was trained for."""
        return self.embedder.mrl_dims

    @property
    def unit_length(self) -> bool:
        return True

    def embed(self, waveforms: list[Any], dim: int) -> Matrix:
        """List of waveforms -> embeddings (batch, dim) of unit length."""
        return unit_prefix(self.embedder.raw(waveforms), dim)


Encoder: TypeAlias = "Backbone | MatryoshkaEncoder | ExportedEncoder"


def is_matryoshka(model: Encoder) -> TypeIs[MatryoshkaEncoder]:
    """Return whether a network has a Matryoshka head and a backbone to compare it with."""
    return hasattr(model, "mrl_dims") and hasattr(model, "project")


def has_own_backbone(model: Encoder) -> TypeGuard[MatryoshkaEncoder]:
    """Return whether the backbone in a network has an embedding of its own to compare with: not where it was cut off early."""
    return is_matryoshka(model) and cut_of(model) is None


def cut_of(model: Encoder) -> Cut | None:
    """Return where a network ends that is the first stages of another one; None for a whole one."""
    cut: Cut | None = getattr(model, "cut", None)
    return cut


def gives_unit_length(model: Encoder) -> bool:
    """Return whether a network's embeddings of files are of unit length: those of Matryoshka models."""
    return model.unit_length if isinstance(model, ExportedEncoder) else is_matryoshka(model)


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

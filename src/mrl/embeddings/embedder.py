"""One way to embed recordings, whatever runs the model: a network in PyTorch, or an exported file (which needs no torch)."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import logging
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from mrl.dims import default_dims
from mrl.embeddings.calibrated import ModelCalibration, calibration_of_export
from mrl.errors import InputError
from mrl.runtime.embedder import OnnxEmbedder, unit_prefix
from mrl.scoring.calibration import Calibration

if TYPE_CHECKING:
    from mrl.embeddings import Extraction, Recording, Verification
    from mrl.matryoshka.exits import Cut

logger = logging.getLogger(__name__)

Waveform: TypeAlias = "npt.NDArray[np.float32]"
Matrix: TypeAlias = "npt.NDArray[np.float32]"

Output: TypeAlias = Literal["embedding", "raw", "backbone"]
"""What an embedder gives for a recording: its embedding (a prefix, of unit length where the model is meant for prefixes), the
whole embedding as the network has it, or that of the backbone inside a Matryoshka model."""


class Embedder(ABC):
    """A model that turns waveforms (samples,) float32 at 16 kHz into embeddings.

    A kind of model needs :meth:`raw` and :attr:`model_hash`, and those of the other properties for which it has something to say.

    Args:
        name: as the user gave it.
        embed_dim: length of the whole embedding.
        mrl_dims: prefix lengths that the model was made for; empty for a plain backbone.
        cut: where the network ends if it is the first stages of another one; None for a whole one.
        calibration: gives the calibration when it is asked for, so that a damaged one is in nobody's way before.
    """

    def __init__(
        self,
        name: str,
        embed_dim: int,
        *,
        mrl_dims: Sequence[int] = (),
        cut: Cut | None = None,
        calibration: Callable[[], ModelCalibration] = lambda: ModelCalibration(None),
    ) -> None:
        self.name = name
        self.embed_dim = embed_dim
        self.mrl_dims = tuple(mrl_dims)
        self.cut = cut
        self._find_calibration = calibration

    @property
    @abstractmethod
    def model_hash(self) -> str:
        """The same for models whose embeddings may be compared with each other; otherwise different."""

    @abstractmethod
    def raw(self, waveforms: Sequence[Waveform]) -> Matrix:
        """Return whole embeddings (batch, embed_dim) of waveforms of any lengths, as the network has them.

        Raises:
            InputError: a waveform is too short for the network.
        """

    def raw_with_backbone(self, waveforms: Sequence[Waveform]) -> tuple[Matrix, Matrix]:
        """Return what :meth:`raw` does, and the raw embeddings of :attr:`backbone`, computed in the same pass."""
        raise self._no_backbone()

    @property
    def backbone(self) -> Embedder | None:
        """The backbone inside a Matryoshka model; None where there is none, or where it was cut off early."""
        return None

    @property
    def backbone_is_unmodified(self) -> bool:
        """Whether the backbone inside a Matryoshka model is as it was published."""
        return False

    @property
    def device(self) -> str:
        """Kind of device that it runs on; kinds differ in the last digits."""
        return "cpu"

    @property
    def config(self) -> dict[str, Any] | None:
        """The network as official checkpoints describe it; None where that is not known."""
        return None

    @property
    def unit_length(self) -> bool:
        """Whether its embeddings are scaled to unit length: those of Matryoshka models."""
        return bool(self.mrl_dims)

    @property
    def default_dims(self) -> tuple[int, ...]:
        """Prefix lengths to measure unless told otherwise: the model's own, or those of :func:`mrl.dims.default_dims`."""
        return self.mrl_dims or default_dims(self.embed_dim)

    @property
    def depth(self) -> int | None:
        """Number of stages if it is the beginning of another network; None for a whole one."""
        return None if self.cut is None else self.cut["depth"]

    @property
    def calibration(self) -> Calibration | None:
        """The calibration that holds for this model; None without one.

        Raises:
            CheckpointError: it is damaged or was made for another model.
        """
        return self.calibrated.calibration

    @functools.cached_property
    def calibrated(self) -> ModelCalibration:
        """The calibration, or why there is none."""
        return self._find_calibration()

    @property
    def calibration_hash(self) -> str:
        """SHA-256 of the calibration; empty without one."""
        if self.calibration is None:
            return ""
        return hashlib.sha256(json.dumps(self.calibration.to_dict(), sort_keys=True).encode()).hexdigest()

    def with_calibration(self, calibration: Calibration) -> Embedder:
        """Return this model with another calibration."""
        other = copy.copy(self)
        other.__dict__.pop("calibrated", None)
        other._find_calibration = lambda: ModelCalibration(calibration)
        return other

    def ready(self) -> AbstractContextManager[object]:
        """Prepare the model for embedding while the block runs."""
        return contextlib.nullcontext()

    def check_dim(self, dim: int | None) -> int:
        """Return the prefix length meant: ``dim``, or the whole embedding.

        Raises:
            InputError: it is not in 1..embed_dim.
        """
        if dim is None:
            return self.embed_dim
        if isinstance(dim, bool) or not 1 <= dim <= self.embed_dim:
            raise InputError(f"target_dim must lie in 1..{self.embed_dim}, the size of this model's embedding; found {dim}")
        return dim

    def prefix(self, raw: Matrix, dim: int) -> Matrix:
        """Return embeddings (batch, dim): the first ``dim`` dimensions, of unit length where :attr:`unit_length` says so."""
        return unit_prefix(raw, dim) if self.unit_length else raw[:, :dim]

    def embed(self, waveforms: Sequence[Waveform], dim: int | None = None) -> Matrix:
        """Return embeddings (batch, dim) of waveforms of any lengths; all dimensions by default.

        Raises:
            InputError: an unusable ``dim``, or a waveform is too short for the network.
        """
        width = self.check_dim(dim)
        with self.ready():
            return self.prefix(self.raw(waveforms), width)

    def outputs(self, waveforms: Sequence[Waveform], names: Sequence[Output], dim: int) -> tuple[Matrix, ...]:
        """Return the outputs ``names``, each (batch, width), from one pass; "embedding" has ``dim`` dimensions."""
        made: dict[Output, Matrix] = {}
        if "backbone" in names:
            made["raw"], made["backbone"] = self.raw_with_backbone(waveforms)
        else:
            made["raw"] = self.raw(waveforms)
        if "embedding" in names:
            made["embedding"] = self.prefix(made["raw"], dim)
        return tuple(made[name] for name in names)

    def encode(
        self,
        recordings: Any,
        how: Extraction | None = None,
        *,
        batch_size: int = 32,
        truncate_dim: int | None = None,
        normalize_embeddings: bool = False,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        sample_rate: int | None = None,
    ) -> Any:
        """Return embeddings (recordings, dim) of a list of paths or arrays, or (dim,) of one: :func:`mrl.embeddings.encode`."""
        from mrl import embeddings  # whose function stands above this class

        return embeddings.encode(
            self,
            recordings,
            how,
            batch_size=batch_size,
            truncate_dim=truncate_dim,
            normalize_embeddings=normalize_embeddings,
            show_progress_bar=show_progress_bar,
            convert_to_numpy=convert_to_numpy,
            sample_rate=sample_rate,
        )

    def similarity(self, first: Recording, second: Recording, how: Extraction | None = None, **options: Any) -> Verification:
        """Compare the speakers of two recordings: cosine, probability of one speaker at a stated prior, decision.

        Args:
            first, second: files, their bytes, or arrays.
            how: how they become embeddings.
            options: dim, threshold, prior, max_false_accept, sample_rate; see :func:`mrl.embeddings.verify_files`, which this is.

        Returns:
            ``print`` shows it in one line, ``float`` gives the score. Without a calibration there is a score alone.
        """
        from mrl import embeddings  # whose function stands above this class

        return embeddings.verify_files(self, first, second, how, **options)

    def width(self, output: Output, dim: int) -> int:
        """Return the number of dimensions of an output; "embedding" has ``dim``.

        Raises:
            InputError: it does not give this output.
        """
        if output == "backbone":
            if self.backbone is None:
                raise self._no_backbone()
            return self.backbone.embed_dim
        return dim if output == "embedding" else self.embed_dim

    def _no_backbone(self) -> InputError:
        return InputError(f"{self.name} has no backbone with an embedding of its own")


class ExportedEmbedder(Embedder):
    """A file that ``mrl export`` wrote for ONNX Runtime, on the CPU.

    Args:
        path: the file.
        threads: of one call; by default as many as torch uses where that is loaded, otherwise all processors.

    Raises:
        InputError: no such file, or it takes features instead of waveforms.
        CheckpointError: the file is damaged, or was not written by ``mrl export``.
        MissingDependencyError: ONNX Runtime is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int | None = None) -> None:
        torch = sys.modules.get("torch")  # whose number of threads is what the user has set for this process
        self.runtime = OnnxEmbedder(path, threads=torch.get_num_threads() if threads is None and torch is not None else threads)
        about = self.runtime.description
        super().__init__(
            os.fspath(path),
            about.embed_dim,
            mrl_dims=about.mrl_dims if about.kind == "matryoshka" else (),
            cut=cast("Cut | None", about.cut),
            calibration=lambda: calibration_of_export(self.runtime.path, about),
        )

    @property
    def model_hash(self) -> str:
        return self.runtime.model_hash

    def raw(self, waveforms: Sequence[Waveform]) -> Matrix:
        return self.runtime.raw(waveforms)

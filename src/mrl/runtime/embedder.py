"""Speaker embeddings from an exported ONNX file, without torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.audio import as_recordings
from mrl.bounded import said
from mrl.errors import CheckpointError, InputError
from mrl.lengths import group_by_length
from mrl.runtime.description import Description
from mrl.runtime.session import open_session, properties_of
from mrl.runtime.waveforms import Audio, Waveform, as_waveforms

Matrix = npt.NDArray[np.float32]

EMBEDDING, RAW_EMBEDDING = "embedding", "raw_embedding"
# Larger batches bring a processor nothing and cost memory.
_MOST_SECONDS = 60.0
_SHORTEST_NORM = 1e-12


class OnnxEmbedder:
    """Recordings -> unit-length embeddings ``(batch, target_dim)``, as the network that was exported gives them.

        embedder = OnnxEmbedder("model.onnx")
        embedding = embedder("speaker.wav", target_dim=64)

    Neither torch nor the network's code is needed, only ONNX Runtime. Several instances, each with its own threads, may live in
    one process, and one instance may be called from several threads.

    Args:
        path: a file that ``mrl export`` wrote, waveform in.
        threads: for one call; as many as the process may use processors when None.

    Raises:
        InputError: no such file, an unusable number of threads, or a file that takes features instead of waveforms.
        CheckpointError: the file is damaged, or was not written by ``mrl export``.
        MissingDependencyError: ONNX Runtime is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int | None = None) -> None:
        self.path = Path(path).expanduser()
        self._session = open_session(self.path, threads)
        self.description = Description.from_properties(properties_of(self._session, self.path), str(self.path))
        if self.description.input != "waveform":
            raise InputError(
                f"{self.path} takes {self.description.input} from your own front end, not waveforms; "
                "export the model again without --input"
            )

    @property
    def embed_dim(self) -> int:
        """Length of the whole embedding."""
        return self.description.embed_dim

    @property
    def mrl_dims(self) -> tuple[int, ...]:
        """The prefix lengths that the model was made for, ascending."""
        return self.description.mrl_dims

    @property
    def sample_rate(self) -> int:
        """Sample rate of the waveforms, in Hz."""
        return self.description.sample_rate

    @property
    def model_hash(self) -> str:
        """The same for models whose embeddings may be compared with each other; otherwise different."""
        return self.description.model_hash

    @property
    def metadata(self) -> dict[str, Any]:
        """Everything that the file says about itself, as JSON values."""
        return self.description.to_dict()

    def __call__(self, audio: Audio, target_dim: int | None = None, *, sample_rate: int | None = None) -> Matrix:
        """Return speaker embeddings of unit length.

        Args:
            audio: a path, a waveform ``(samples,)`` at :attr:`sample_rate` Hz, a batch ``(batch, samples)`` or
                ``(batch, 1, samples)``, or a list of paths and waveforms of any lengths.
            target_dim: prefix length, any from 1 to :attr:`embed_dim`; None for the whole embedding.
            sample_rate: of arrays, in Hz, if another one than :attr:`sample_rate`; they are resampled.

        Returns:
            float32 ``(batch, target_dim)``, or ``(target_dim,)`` for a path or a single waveform.

        Raises:
            InputError: unusable audio, or a length that the model does not have.
            AudioLoadingError: a path that cannot be decoded.
            CheckpointError: the network gave NaN or infinity.
        """
        dim = self.check_dim(target_dim)
        recordings = as_recordings(audio, sample_rate, target_rate=self.sample_rate)
        waveforms, single = as_waveforms(
            recordings, sample_rate=self.sample_rate, minimum_samples=self.description.minimum_samples
        )
        raw = self.raw(waveforms)
        if not np.isfinite(raw).all():
            raise CheckpointError(f"{self.path} gave NaN or infinity for usable audio; export the model again")
        unit = unit_prefix(raw, dim)
        return unit[0] if single else unit

    def raw(self, waveforms: Sequence[Waveform]) -> Matrix:
        """Return raw embeddings ``(batch, embed_dim)``, not of unit length, of waveforms (samples,) float32 of any lengths.

        Raises:
            InputError: a waveform is too short.
        """
        waveforms, _ = as_waveforms(
            list(waveforms), sample_rate=self.sample_rate, minimum_samples=self.description.minimum_samples
        )
        result = np.empty((len(waveforms), self.embed_dim), dtype=np.float32)
        lengths = [len(waveform) for waveform in waveforms]
        for group in group_by_length(lengths, _MOST_SECONDS * self.sample_rate, equal=True):
            batch = np.stack([waveforms[place] for place in group])
            (raw,) = self._run(batch)
            if raw.shape != (len(group), self.embed_dim) or raw.dtype != np.float32:
                raise CheckpointError(
                    f"{self.path} gave {raw.dtype} {raw.shape}, its description says float32 {(len(group), self.embed_dim)}; "
                    "export the model again"
                )
            result[group] = raw
        return result

    def _run(self, batch: Matrix) -> list[Any]:
        try:
            outputs: list[Any] = self._session.run([RAW_EMBEDDING], {"waveform": batch})
        except Exception as error:  # its error classes derive from Exception only and differ between versions
            raise CheckpointError(f"{self.path} cannot be run ({said(error)}); export the model again") from error
        return outputs

    def check_dim(self, target_dim: int | None) -> int:
        """Return the prefix length meant: ``target_dim``, or the whole embedding.

        Raises:
            InputError: it is not a whole number from 1 to embed_dim.
        """
        if target_dim is None:
            return self.embed_dim
        if isinstance(target_dim, bool) or not isinstance(target_dim, int) or not 1 <= target_dim <= self.embed_dim:
            raise InputError(f"target_dim={target_dim!r} is not available; expected a whole number from 1 to {self.embed_dim}")
        return target_dim


def unit_prefix(raw: Matrix, dim: int) -> Matrix:
    """Return the first ``dim`` dimensions of embeddings ``(batch, embed_dim)``, scaled to unit length."""
    prefix = raw[:, :dim]
    lengths = np.linalg.norm(prefix, axis=1, keepdims=True)
    return np.ascontiguousarray(prefix / np.maximum(lengths, _SHORTEST_NORM), dtype=np.float32)

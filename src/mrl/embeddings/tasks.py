"""What the command line does with a network: embed to a file, and score two files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrl.distribution import Processes
from mrl.embeddings.embedder import Embedder
from mrl.embeddings.extraction import EmbeddedFiles, Extraction, chosen_settings, embed_files
from mrl.embeddings.formats import check_suffix, save_embeddings
from mrl.embeddings.mapping import failure_summary
from mrl.embeddings.opening import as_embedder
from mrl.embeddings.similarity import cosine_similarity
from mrl.errors import AudioLoadingError
from mrl.version import __version__


def embed_to_file(
    model: Any,
    paths: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    how: Extraction | None = None,
    *,
    model_name: str,
    target_dim: int | None = None,
    processes: Processes | None = None,
    **changes: Any,
) -> EmbeddedFiles:
    """Embed recordings and write what could be embedded to ``output``, with the path of each as its id.

    Args:
        model: the network, or an :class:`mrl.embeddings.Embedder`.
        paths: the recordings.
        output: file to write; its suffix is checked before the work begins. Nothing is written when no recording worked.
        how: the settings.
        model_name: how the network was called, for the file's metadata.
        target_dim, changes: as for :func:`embed_files`.
        processes: those that share the work; the first one writes the file.

    Raises:
        InputError: unusable arguments.
        ProcessError: another process has ended, does not answer, or was given other recordings.
        OSError: the file cannot be written.
    """
    check_suffix(output)
    embedder, chosen = as_embedder(model), chosen_settings(how, changes)
    embedded = embed_files(embedder, paths, chosen, target_dim=target_dim, processes=processes)
    if embedded.paths and (processes is None or processes.is_first):
        metadata = describe_embeddings(embedder, model_name, embedded.matrix.shape[1], chosen)
        save_embeddings(output, [str(path) for path in embedded.paths], embedded.matrix, metadata)
    return embedded


def describe_embeddings(embedder: Embedder, model_name: str, dim: int, how: Extraction) -> dict[str, Any]:
    """Return the metadata of a file of embeddings: what they were made with.

    ``model_sha256`` is of the very network that made them. With an early exit, ``depth`` is its number of stages and
    ``whole_model_sha256`` is of the whole network, with whose embeddings they may be compared.
    """
    facts = {
        "model": model_name,
        "model_sha256": embedder.model_hash,
        "dim": dim,
        "unit_length": embedder.unit_length,
        **how.facts(),
        "package": f"redimnet-mrl {__version__}",
    }
    cut = embedder.cut
    return facts if cut is None else {**facts, "depth": cut["depth"], "whole_model_sha256": cut["whole_sha256"]}


def score_files(
    model: Any, first: str | os.PathLike[str], second: str | os.PathLike[str], *, target_dim: int | None = None
) -> float:
    """Return the raw cosine, in [-1, 1], of the embeddings of two recordings.

    Args:
        model: the network.
        first, second: the recordings.
        target_dim: compare prefixes of this length; all dimensions by default.

    Raises:
        AudioLoadingError: a recording cannot be used.
        InputError: unusable ``target_dim``.
    """
    embedded = embed_files(model, [Path(first), Path(second)], target_dim=target_dim, num_workers=0, show_progress=False)
    if embedded.failures:
        raise AudioLoadingError(failure_summary(embedded.failures, 2))
    return cosine_similarity(*embedded.matrix)

"""A comparison of storage formats for whatever a user names: a model or a file of embeddings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mrl.errors import InputError
from mrl.evaluation.embedding import embed_recordings
from mrl.evaluation.embedding_cache import EmbeddingCache
from mrl.evaluation.gallery import Extraction
from mrl.evaluation.hardware import hardware_line
from mrl.evaluation.quantisation import QuantisationResult, measure_formats
from mrl.evaluation.systems import NetworkSystem, TableSystem, open_lineup
from mrl.trials.lists import TrialList
from mrl.trials.speakers import speakers_of_trials


def quantise_spec(
    spec: str,
    trials: TrialList,
    root: str | os.PathLike[str] | None,
    *,
    weights: str | None = None,
    dims: Sequence[int] | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    speakers: Mapping[str, str] | None = None,
    extraction: Extraction | None = None,
    command: Sequence[str] = (),
) -> QuantisationResult | None:
    """Measure every storage format at every prefix length of one model or file of embeddings, on one trial list.

    Args:
        spec: a model folder, official checkpoint, exported file, released name, or embedding file.
        trials: the list.
        root: the data root; needed for a model, refused with an embedding file.
        weights: for a released name, where its file is.
        dims: prefix lengths; the model's own by default.
        bootstrap, seed, speakers: as for :func:`mrl.evaluation.measure_formats`.
        extraction: how recordings become embeddings.
        command: the command line, for the report.

    Returns:
        None in a process that only helps to embed (see :class:`Extraction`).

    Raises:
        InputError: arguments that do not go together, otherwise as :func:`mrl.evaluation.systems.open_lineup`.
        DataError: missing or unreadable recordings (all counted), or as :func:`mrl.evaluation.measure_formats`.
    """
    how = extraction or Extraction()
    trials.require_both_classes()  # what is wrong with a list should show before hours of work
    if speakers is not None:
        speakers_of_trials(trials, speakers)
    system = open_lineup([spec], weights=weights, dims=dims, own_backbone=False, device=how.device).systems[0]
    facts: dict[str, Any] = {"command": list(command), "model": spec, "hardware": hardware_line(how.device)}
    if isinstance(system, TableSystem):
        given = {"root": root, "max_seconds": how.max_seconds, "cache": how.cache}
        for option, value in given.items():
            if value is not None:
                raise InputError(f"{option} does not go with a file of embeddings ({spec}); leave it out")
        facts |= {"embeddings_sha256": system.sha256, "embeddings_metadata": system.table.metadata}
        matrix = system.table.matrix[trials.indices_into(system.table.ids)]
    else:
        if root is None:
            raise InputError("a data root is needed: the folder below which the paths of the trial list lie (--root)")
        facts |= {"model_sha256": system.sha256, "data_root": str(root), "max_seconds": how.max_seconds}
        matrix = _embed(system, trials, Path(root), how)
    if not how.processes.is_first:
        return None  # the first process alone scores
    return measure_formats(matrix, trials, system.dims, bootstrap=bootstrap, seed=seed, speakers=speakers, provenance=facts)


def _embed(system: NetworkSystem, trials: TrialList, root: Path, how: Extraction) -> npt.NDArray[np.float32]:
    with how.processes.together():
        return embed_recordings(
            system.model,
            trials.utterances,
            trials.paths(root),
            own_backbone=False,
            batch_seconds=how.batch_seconds,
            num_workers=how.num_workers,
            max_seconds=how.max_seconds,
            show_progress=how.show_progress,
            cache=None if how.cache is None else EmbeddingCache(how.cache),
            description=system.name,
            processes=how.processes,
        )[0]

"""Evaluation of whatever a user names: a model, or a file of embeddings."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrl.embeddings.formats import EMBEDDING_SUFFIXES, load_embeddings
from mrl.embeddings.models import open_model, weights_sha256
from mrl.errors import InputError
from mrl.evaluation.evaluate import evaluate_embeddings, evaluate_model
from mrl.evaluation.result import EvaluationResult
from mrl.evaluation.trials import TrialList
from mrl.files import sha256_of


def evaluate_spec(
    spec: str,
    trials: TrialList,
    root: str | os.PathLike[str] | None,
    *,
    weights: str | None = None,
    dims: Iterable[int] | None = None,
    own_backbone: bool = True,
    baseline: str | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    speakers: Mapping[str, str] | None = None,
    batch_seconds: float = 60.0,
    max_seconds: float | None = None,
    num_workers: int = 2,
    device: str = "cpu",
    command: Sequence[str] = (),
) -> EvaluationResult:
    """Evaluate a model (see :func:`mrl.embeddings.open_model`) or a file of embeddings on a trial list.

    Args:
        spec: a model folder, an official checkpoint, a released name, or an embedding file.
        trials: the list.
        root: the data root; needed for a model, refused for an embedding file.
        weights: for a released name, where its file is.
        dims: prefix lengths.
        own_backbone: measure a Matryoshka model's own backbone beside it, unless ``baseline`` names another network.
        baseline: another network to compare with.
        bootstrap, seed, speakers, batch_seconds, max_seconds, num_workers: as for :func:`evaluate_model`.
        device: where the networks go.
        command: the command line, for the report.

    Raises:
        InputError: ``root``, ``weights`` or ``baseline`` do not go with ``spec``; otherwise as :func:`evaluate_model`.
    """
    provenance: dict[str, Any] = {"command": list(command), "model": spec}
    if Path(spec).suffix.lower() in EMBEDDING_SUFFIXES:
        for option, value in {"root": root, "weights": weights, "baseline": baseline, "max_seconds": max_seconds}.items():
            if value is not None:
                raise InputError(f"{option} does not go with a file of embeddings ({spec}); leave it out")
        table = load_embeddings(spec)
        provenance |= {"embeddings_sha256": sha256_of(spec), "embeddings_metadata": table.metadata}
        return evaluate_embeddings(
            table.ids,
            table.matrix,
            trials,
            dims,
            name=Path(spec).stem,
            bootstrap=bootstrap,
            seed=seed,
            speakers=speakers,
            provenance=provenance,
        )
    if root is None:
        raise InputError("a data root is needed: the folder below which the paths of the trial list lie (--root)")
    model = open_model(spec, weights=weights, device=device)
    provenance["model_sha256"] = weights_sha256(model)
    other = None if baseline is None else open_model(baseline, device=device)
    if other is not None:
        provenance |= {"baseline": baseline, "baseline_sha256": weights_sha256(other)}
    return evaluate_model(
        model,
        trials,
        root,
        dims=dims,
        batch_seconds=batch_seconds,
        num_workers=num_workers,
        max_seconds=max_seconds,
        bootstrap=bootstrap,
        seed=seed,
        baseline=other if other is not None else ("own" if own_backbone else None),
        speakers=speakers,
        provenance=provenance,
    )

"""From a file of embeddings and a list of speakers to a head in a file, and to projected embeddings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from mrl.embeddings.formats import EmbeddingTable, check_suffix, load_embeddings, save_embeddings
from mrl.embeddings.head import Head, HeadMethod, check_head_suffix, fit_head, project_embeddings, save_head
from mrl.embeddings.likely_speakers import likely_speakers
from mrl.evaluation.head_choice import choose_head
from mrl.matryoshka.trained_head import HeadTraining
from mrl.progress import progress_bar
from mrl.trials.speakers import read_speakers

# Likely speakers are found by comparing all with all.
_MOST_UNLABELLED = 30_000

PathLike = str | os.PathLike[str]


def fit_head_file(
    embeddings: PathLike,
    output: PathLike,
    *,
    labels: PathLike | None = None,
    groups: PathLike | None = None,
    method: HeadMethod | Literal["auto"] = "auto",
    dims: Sequence[int] | None = None,
    apply: Sequence[tuple[PathLike, PathLike]] = (),
) -> list[str]:
    """Fit a head to a file of embeddings, write it, and project other files with it.

    Args:
        embeddings: of the speakers to fit to, any format of :func:`mrl.embeddings.load_embeddings`.
        output: ``.safetensors`` file for the head.
        labels: lines ``utterance speaker``; None: likely speakers are found among the embeddings, where the method needs any.
        groups: lines ``utterance corpus``, for :func:`mrl.evaluation.choose_head`.
        method: as for :func:`mrl.embeddings.fit_head`; ``"auto"``: the best on what was held out.
        dims: prefix lengths.
        apply: (file of embeddings, file to write) pairs.

    Returns:
        What was chosen, gained and lost, and what was written.

    Raises:
        DataError: a file is missing or malformed, or embeddings have no speaker.
        InputError: unusable arguments.
        OSError: a file cannot be written.
    """
    check_head_suffix(output)
    for _, target in apply:
        check_suffix(target)
    table = load_embeddings(embeddings)
    others = [(load_embeddings(source), target) for source, target in apply]
    speakers = None if labels is None else read_speakers(labels)
    corpora = None if groups is None else read_speakers(groups)
    if method == "auto":
        head, lines = _choose(table, speakers, corpora, dims)
    else:
        head, lines = _fit(table, speakers, method, dims), []
    projected = [(project_embeddings(head, other), target) for other, target in others]
    save_head(head, output)
    whose = "without labels" if speakers is None else f"of {head.about['speakers']:,} speakers"
    lines.append(
        f"{head.about['method']} {head.affine.inputs} -> {head.affine.outputs} fitted to {head.about['utterances']:,} embeddings "
        f"{whose}, for prefixes of {', '.join(map(str, head.dims))}: {output}"
    )
    for result, target in projected:
        save_embeddings(target, result.ids, result.matrix, result.metadata)
        lines.append(f"{len(result.ids):,} projected embeddings: {target}")
    return lines


def _choose(
    table: EmbeddingTable, speakers: Mapping[str, str] | None, groups: Mapping[str, str] | None, dims: Sequence[int] | None
) -> tuple[Head, list[str]]:
    labelled = speakers is not None
    if speakers is None:
        table = _sample(table)
        speakers = {name: str(group) for name, group in zip(table.ids, likely_speakers(table.matrix), strict=True)}
    choice = choose_head(table, speakers, groups=groups, dims=dims, guessed=not labelled)
    about = {**choice.head.about, "choice": choice.as_dict()}
    lines = choice.lines()
    if not labelled:
        about |= {"speakers": None, "likely_speakers": len(set(speakers.values()))}
        lines.insert(
            0, f"no labels: {about['likely_speakers']:,} likely speakers among {len(table.ids):,} embeddings stand in for them"
        )
    return replace(choice.head, about=about), lines


def _sample(table: EmbeddingTable) -> EmbeddingTable:
    if len(table.ids) <= _MOST_UNLABELLED:
        return table
    rows = np.sort(np.random.default_rng(0).choice(len(table.ids), _MOST_UNLABELLED, replace=False))
    return EmbeddingTable(tuple(table.ids[row] for row in rows), table.matrix[rows], table.metadata)


def _fit(table: EmbeddingTable, speakers: Mapping[str, str] | None, method: HeadMethod, dims: Sequence[int] | None) -> Head:
    training = HeadTraining()
    with progress_bar("training the head", training.steps, unit="steps", enabled=method.startswith("trained")) as advance:
        return fit_head(table, speakers, method=method, dims=dims, training=training, advance=advance)

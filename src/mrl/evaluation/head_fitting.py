"""From a file of embeddings and a list of speakers to a head in a file, and to projected embeddings."""

from __future__ import annotations

import os
from collections.abc import Sequence

from mrl.embeddings.formats import check_suffix, load_embeddings, save_embeddings
from mrl.embeddings.head import check_head_suffix, fit_head, project_embeddings, save_head
from mrl.matryoshka.closed_form import Method
from mrl.trials.speakers import read_speakers

PathLike = str | os.PathLike[str]


def fit_head_file(
    embeddings: PathLike,
    output: PathLike,
    *,
    labels: PathLike | None = None,
    method: Method = "rotation",
    dims: Sequence[int] | None = None,
    apply: Sequence[tuple[PathLike, PathLike]] = (),
) -> list[str]:
    """Fit a head to a file of embeddings, write it, and project other files with it.

    Args:
        embeddings: of the speakers to fit to, any format of :func:`mrl.embeddings.load_embeddings`.
        output: ``.safetensors`` file for the head.
        labels: lines ``utterance speaker``.
        method, dims: as for :func:`mrl.embeddings.fit_head`.
        apply: (file of embeddings, file to write) pairs.

    Returns:
        What was written, one line each.

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
    head = fit_head(table, None if labels is None else read_speakers(labels), method=method, dims=dims)
    projected = [(project_embeddings(head, other), target) for other, target in others]
    save_head(head, output)
    speakers = head.about["speakers"]
    whose = "without labels" if speakers is None else f"of {speakers:,} speakers"
    lines = [
        f"{method} {head.affine.inputs} -> {head.affine.outputs} fitted to {len(table.ids):,} embeddings {whose}, "
        f"for prefixes of {', '.join(map(str, head.dims))}: {output}"
    ]
    for result, target in projected:
        save_embeddings(target, result.ids, result.matrix, result.metadata)
        lines.append(f"{len(result.ids):,} projected embeddings: {target}")
    return lines

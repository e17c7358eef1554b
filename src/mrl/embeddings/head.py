"""Matryoshka heads for the embeddings of any toolkit: fitted or trained, kept in one safetensors file, applied to tables."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mrl.bounded import brief, parse_json, read_safetensors, require_floats
from mrl.embeddings.formats import EmbeddingTable
from mrl.errors import DataError, InputError
from mrl.files import write_safetensors
from mrl.matryoshka import AffineMap, fit_projection
from mrl.matryoshka.closed_form import Method
from mrl.matryoshka.trained_head import HeadTraining, rotation_with_prefixes_of, train_head
from mrl.version import __version__

HEAD_FORMAT = "redimnet-mrl-head/1"
HeadMethod = Method | Literal["trained", "trained-rotation"]


@dataclass(frozen=True, eq=False)
class Head:
    """An affine map of embeddings whose output is meant to be cut to prefixes.

    Attributes:
        affine: embeddings of ``affine.inputs`` numbers -> ``affine.outputs`` numbers.
        dims: prefix lengths that it is meant for, ascending; the last one is ``affine.outputs``.
        about: how it was fitted.
    """

    affine: AffineMap
    dims: tuple[int, ...]
    about: dict[str, Any]


def fit_head(
    table: EmbeddingTable,
    speakers: Mapping[str, str] | None,
    *,
    method: HeadMethod = "rotation",
    dims: Sequence[int] | None = None,
    shrinkage: float = 0.7,
    groups: Mapping[str, str] | None = None,
    training: HeadTraining | None = None,
    advance: Callable[[int], None] | None = None,
) -> Head:
    """Fit a head to embeddings; :func:`mrl.evaluation.choose_head` tries all methods and takes the best.

    Args:
        table: the embeddings, at best of several utterances of each of a few hundred speakers or more.
        speakers: id -> speaker; ids beyond the table's are no harm. None only for ``"uncentred"``, ``"pca"`` and ``"rotation"``,
            which go by variance alone then.
        method: ``"rotation"`` and ``"uncentred"`` keep the cosines at full length as they are and order directions by
            discrimination and by what they hold; ``"pca"`` centres, too; ``"lda"`` also whitens within speakers
            (:func:`mrl.matryoshka.fit_projection`). ``"trained"`` goes on from ``"uncentred"`` by gradient
            (:func:`mrl.matryoshka.trained_head.train_head`); ``"trained-rotation"`` makes a rotation of it that keeps cosines
            at full length again.
        dims: prefix lengths; by default powers of two from 16 up and the length of the embeddings.
        shrinkage: of the within-speaker covariance, for ``"lda"``.
        groups: id -> corpus, for training, so that no large one drowns the others. None: one.
        training: settings of the training.
        advance: called with 1 after every step of the training.

    Raises:
        DataError: embeddings without a speaker (all counted).
        InputError: unusable arguments, or labels that tell nothing.
    """
    width = table.matrix.shape[1]
    chosen = checked_head_dims(dims, width)
    labels = None if speakers is None else _labels(table, speakers)
    features = torch.tensor(table.matrix)  # a copy: arrays of files may be read-only
    if method == "trained" or method == "trained-rotation":
        if labels is None:
            raise InputError(f"method={method!r} needs speaker labels; without them use 'uncentred' or 'pca'")
        training = HeadTraining() if training is None else training
        start = fit_projection(features, method="uncentred", embed_dim=chosen[-1])
        corpora = None if groups is None else _labels(table, groups, "group")
        affine = train_head(features, labels, dims=chosen, start=start, groups=corpora, how=training, advance=advance)
        if method == "trained-rotation":
            affine = rotation_with_prefixes_of(affine)
    else:
        training = None
        affine = fit_projection(features, labels, method=method, embed_dim=chosen[-1], shrinkage=shrinkage)
    about = {
        "method": method,
        "utterances": len(table.ids),
        "speakers": None if labels is None else int(labels.max()) + 1,
        "shrinkage": shrinkage if method == "lda" else None,
        "training": None if training is None else asdict(training),
        "fitted_to": table.metadata,
        "package": f"redimnet-mrl {__version__}",
    }
    return Head(affine, chosen, about)


def as_rotation(head: Head) -> Head:
    """Return the ``"trained-rotation"`` of a ``"trained"`` head."""
    return Head(rotation_with_prefixes_of(head.affine), head.dims, {**head.about, "method": "trained-rotation"})


def checked_head_dims(dims: Sequence[int] | None, width: int) -> tuple[int, ...]:
    """Return the prefix lengths of a head for embeddings of ``width`` numbers, ascending.

    Raises:
        InputError: a length is not in 1..width.
    """
    chosen = tuple(sorted(set(dims))) if dims is not None else (*(2**p for p in range(4, 20) if 2**p < width), width)
    if not chosen or chosen[0] < 1 or chosen[-1] > width:
        raise InputError(f"dims must lie in 1..{width}, the size of the embeddings; found {list(chosen)}")
    return chosen


def project_embeddings(head: Head, table: EmbeddingTable) -> EmbeddingTable:
    """Return the table's embeddings through the head (n, outputs), raw: cut to a prefix first, then scale to unit length.

    Raises:
        InputError: embeddings of another length than the head takes.
    """
    if table.matrix.shape[1] != head.affine.inputs:
        raise InputError(f"the head takes embeddings of {head.affine.inputs} numbers; these have {table.matrix.shape[1]}")
    projected = head.affine(torch.tensor(table.matrix, dtype=torch.float64)).float().numpy()
    return EmbeddingTable(table.ids, projected, {**table.metadata, "head": head.about, "dims": list(head.dims)})


def save_head(head: Head, path: str | os.PathLike[str]) -> None:
    """Write ``weight`` (outputs, inputs) and ``bias`` (outputs,) as float32, and how they came about, as safetensors, atomically.

    Raises:
        InputError: the suffix is not ``.safetensors``.
        OSError: the folder cannot be written to or the disk is full.
    """
    check_head_suffix(path)
    tensors = {
        "weight": np.ascontiguousarray(head.affine.weight.float().numpy()),
        "bias": np.ascontiguousarray(head.affine.bias.float().numpy()),
    }
    notes = {"format": HEAD_FORMAT, "dims": json.dumps(list(head.dims)), "about": json.dumps(head.about, ensure_ascii=False)}
    write_safetensors(path, tensors, notes)


def load_head(path: str | os.PathLike[str]) -> Head:
    """Read a file that :func:`save_head` wrote.

    Raises:
        DataError: the file is missing, damaged or of another format.
    """
    file, advice = Path(path), "fit it again"
    try:
        found = read_safetensors(file, advice=advice)
    except FileNotFoundError:
        raise DataError(f"head {file} does not exist") from None
    if found.notes.get("format") != HEAD_FORMAT:
        raise DataError(
            f"{file} has the format {brief(found.notes.get('format'))}; expected {HEAD_FORMAT!r}, as save_head writes it"
        )
    parts: dict[str, Any] = {name: found.tensors[name] for name in ("weight", "bias") if name in found.tensors}
    require_floats(parts, str(file), advice=advice)
    shapes = {name: part.shape for name, part in parts.items()}
    dims = parse_json(found.notes.get("dims", "null"), f"the dims of {file}", advice=advice)
    about = parse_json(found.notes.get("about", "{}"), f"the description of {file}", advice=advice)
    fits = len(parts) == 2 and len(shapes["weight"]) == 2 and shapes["bias"] == shapes["weight"][:1] and 0 not in shapes["weight"]
    if not fits or not isinstance(about, dict):
        raise DataError(
            f"{file} is no head: a weight (outputs, inputs) and a bias (outputs,) belong in it, found {shapes}; {advice}"
        )
    outputs = shapes["weight"][0]
    if not isinstance(dims, list) or not dims or not all(type(dim) is int and 1 <= dim <= outputs for dim in dims):
        raise DataError(f"{file}: its dims are {brief(dims)}, expected whole numbers from 1 to {outputs}; {advice}")
    weight, bias = (torch.from_numpy(parts[name]).double() for name in ("weight", "bias"))
    return Head(AffineMap(weight, bias), tuple(dims), about)


def check_head_suffix(path: str | os.PathLike[str]) -> None:
    """Raise :class:`InputError` unless ``path`` ends in ``.safetensors``."""
    if Path(path).suffix.lower() != ".safetensors":
        raise InputError(f"{path}: a head is written as .safetensors")


def _labels(table: EmbeddingTable, speakers: Mapping[str, str], what: str = "speaker") -> torch.Tensor:
    absent = [name for name in table.ids if name not in speakers]
    if absent:
        raise DataError(f"{len(absent)} of {len(table.ids)} embeddings have no {what}, the first is {absent[0]!r}")
    number = {speaker: index for index, speaker in enumerate(sorted({speakers[name] for name in table.ids}))}
    return torch.tensor([number[speakers[name]] for name in table.ids])

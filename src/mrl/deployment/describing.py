"""What there is to say about a model that is about to be exported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mrl.deployment.front_end import front_end_facts
from mrl.deployment.network import InputKind, Model, backbone_of
from mrl.deployment.precision import Precision
from mrl.embeddings import weights_sha256
from mrl.embeddings.encoders import cut_of
from mrl.evaluation.calibrating import load_calibration
from mrl.matryoshka import ReDimNetMRL
from mrl.runtime.description import Description
from mrl.version import __version__


def describe(
    model: Model, kind: InputKind, precision: Precision, *, opset: int | None, calibration: dict[str, Any] | None
) -> Description:
    """Return the description of a model in one form; ``model_hash`` is that of the weights."""
    backbone = backbone_of(model)
    source = _shareable(backbone.pretrained_source)
    sha256 = weights_sha256(model)
    cut = cut_of(model)
    return Description(
        version=__version__,
        kind="matryoshka" if isinstance(model, ReDimNetMRL) else "backbone",
        input=kind,
        precision=precision,
        sample_rate=backbone.sample_rate,
        minimum_samples=backbone.minimum_samples,
        embed_dim=model.embed_dim,
        mrl_dims=model.mrl_dims if isinstance(model, ReDimNetMRL) else (model.embed_dim,),
        front_end=front_end_facts(backbone.config.front_end),
        model_config=backbone.config.to_model_config(),
        weights_sha256=sha256,
        model_hash=sha256,
        source=source,
        licence=str((source or {}).get("licence") or "not stated"),
        calibration=calibration,
        opset=opset,
        cut=None if cut is None else dict(cut),
    )


def calibration_of_folder(spec: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the calibration of a model folder as JSON values; None for anything else, and without one.

    Raises:
        CheckpointError: the calibration is damaged or was made for other weights.
    """
    folder = Path(spec).expanduser()
    found = load_calibration(folder) if folder.is_dir() else None
    return None if found is None else found.to_dict()


def _shareable(source: dict[str, Any] | None) -> dict[str, Any] | None:
    """Keep the file's name, not where it lay on the machine that exports the model."""
    return {**source, "file": Path(source["file"]).name} if source and source.get("file") else source

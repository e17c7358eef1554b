"""Fitting early exits to recordings: one pass over them, then a regression in closed form."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mrl.embeddings import Extraction, collect_recordings, evaluation_mode, open_model
from mrl.embeddings.calibrated import CALIBRATION, load_calibration
from mrl.errors import InputError
from mrl.files import write_json
from mrl.matryoshka import ReDimNetMRL
from mrl.matryoshka.exits import EarlyExit, checked_exit_depth
from mrl.matryoshka.saving import WEIGHTS, read_model_config
from mrl.pretrained import Release, model_folder
from mrl.settings import changed

_HOW = Extraction(batch_seconds=30.0)  # several sums of all frames are kept of every recording of a batch


def fit_exits(
    model: ReDimNetMRL,
    recordings: Sequence[str | os.PathLike[str]],
    depths: Iterable[int] | None = None,
    how: Extraction | None = None,
    *,
    ridge: float = 0.1,
    **changes: Any,
) -> None:
    """Give ``model`` exits after some of its stages, so that ``model(audio, depth=2)`` is faster and nearly as good.

    No labels are needed: each exit learns to predict the embedding of the whole network, whose own results stay as they are. Fit
    exits last: what trains the network or its head afterwards would leave them behind, and is refused.

    Args:
        model: changed in place, and in eval mode afterwards.
        recordings: some thousand, of many speakers, like those that will be embedded.
        depths: after which stages, from 1 to one less than all; None: all of these.
        how: how recordings are read; by default 30 s of audio per forward pass.
        ridge: penalty of the regression, see :meth:`mrl.matryoshka.exits.EarlyExit.fit`.
        changes: settings of :class:`mrl.embeddings.Extraction` by keyword, such as ``max_seconds=10.0``.

    Raises:
        InputError: a depth that the network does not have, too few recordings, or another unusable argument.
        DataError: recordings that cannot be used.
        TrainingError: the model is an inference copy.
    """
    model.backbone.refuse_copy("given exits")
    stages = model.backbone.num_stages
    wanted = sorted({checked_exit_depth(depth, stages) for depth in (range(1, stages) if depths is None else depths)})
    if not wanted:
        raise InputError(f"depths is empty; expected whole numbers from 1 to {stages - 1}, or None for all")
    exits = {depth: EarlyExit(model.backbone, depth, model.embed_dim) for depth in wanted}

    def statistics(waveforms: list[Any]) -> tuple[Tensor, ...]:
        sums = [*(early_exit.weighted_sum for early_exit in exits.values()), whole]
        early = model.backbone.early_statistics(waveforms, sums=sums)
        return (*early[:-1], model.project(early[-1]))

    whole = model.backbone.encoder.final_sum
    with evaluation_mode(model):
        chosen = changed(how or _HOW, changes)
        mapped = chosen.map(statistics, recordings, description="fitting exits", on_error="raise")
    *pooled, embeddings = [torch.from_numpy(matrix).to(model.device) for matrix in mapped.matrices]
    for fitted, rows in zip(exits.values(), pooled, strict=True):
        fitted.fit(rows, embeddings, ridge=ridge)
    model.add_exits(wanted)
    for depth, fitted in exits.items():
        model.exits[str(depth)] = fitted


# From a model folder to one with early exits.


@dataclass(frozen=True)
class ExitFolder:
    """What :func:`fit_exits_into_folder` wrote.

    Attributes:
        folder: the model folder with exits.
        depths: those that the model has now; the last is the whole network.
        num_recordings: that the exits were fitted to.
        num_bytes: of the weights.
        num_bytes_before: of the weights of the model without these exits.
    """

    folder: Path
    depths: tuple[int, ...]
    num_recordings: int
    num_bytes: int
    num_bytes_before: int


def fit_exits_into_folder(
    spec: str | os.PathLike[str],
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    how: Extraction | None = None,
    *,
    depths: Iterable[int] | None = None,
    device: str | torch.device = "cpu",
    **changes: Any,
) -> ExitFolder:
    """Fit exits to recordings and write the model with them into a folder of its own.

    What the model's folder says about its training and release goes along, and so does its calibration: it holds for the whole
    network, whose results stay as they are. Weights are stored in as many bits as they were.

    Args:
        spec: a model folder, or the name of a model that comes with the package.
        inputs: recordings, folders of them, or lists, as for :func:`mrl.embeddings.collect_recordings`.
        output: a folder that is not there yet, or an empty one.
        how, depths, changes: as for :func:`fit_exits`.
        device: where the network computes.

    Raises:
        InputError: a folder that is there already, a depth that the network does not have, or too few recordings.
        CheckpointError: the model folder, or its calibration, is absent, damaged or of another kind.
        DataError: recordings that cannot be used; all of them are counted.
        OSError: the folder cannot be written to or the disk is full.
    """
    target = Path(output).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is there already; give a new or empty folder")
    source = model_folder(Path(spec).expanduser())
    config = read_model_config(source)
    calibration = load_calibration(source)
    recordings = collect_recordings(inputs)
    model = open_model(source if source.is_dir() else spec, device=device)
    assert isinstance(model, ReDimNetMRL)  # which a model folder holds
    fit_exits(model, recordings, depths, how, **changes)
    exits = ", ".join(map(str, model.depths[:-1]))
    training = {
        **(config.get("training") or {}),
        "early exits": f"after {exits} of {model.depths[-1]} stages, last fitted to {len(recordings):,} recordings",
    }
    release = Release.from_dict(config["release"]) if config.get("release") else None
    dtype = torch.float16 if config.get("weights_dtype") == "float16" else torch.float32
    model.save_pretrained(target, training=training, release=release, dtype=dtype)
    if calibration is not None:
        weights_sha256 = str(read_model_config(target)["weights_sha256"])
        write_json(target / CALIBRATION, dataclasses.replace(calibration, weights_sha256=weights_sha256).to_dict())
    return ExitFolder(target, model.depths, len(recordings), (target / WEIGHTS).stat().st_size, (source / WEIGHTS).stat().st_size)

"""Fitting early exits to recordings: one pass over them, then a regression in closed form."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from mrl.backbone.inference_copy import refuse_copy
from mrl.embeddings import evaluation_mode, map_files
from mrl.errors import InputError
from mrl.matryoshka import ReDimNetMRL
from mrl.matryoshka.exits import EarlyExit, checked_exit_depth


def fit_exits(
    model: ReDimNetMRL,
    recordings: Sequence[str | os.PathLike[str]],
    depths: Iterable[int] | None = None,
    *,
    ridge: float = 0.1,
    max_seconds: float | None = None,
    batch_seconds: float = 30.0,
    show_progress: bool = True,
) -> None:
    """Give ``model`` exits after so many stages, so that ``model(audio, depth=2)`` is faster and nearly as good.

    No labels are needed: each exit learns to predict the embedding of the whole network, whose own results stay as they are. Fit
    exits last: what trains the network or its head afterwards would leave them behind, and is refused.

    Args:
        model: changed in place, and in eval mode afterwards.
        recordings: some thousand, of many speakers, like those that will be embedded.
        depths: after which stages, from 1 to one less than all; None: all of these.
        ridge: penalty of the regression, see :meth:`mrl.matryoshka.exits.EarlyExit.fit`.
        max_seconds: use only the first so many seconds of each recording.
        batch_seconds: most audio per forward pass, in seconds.
        show_progress: draw a bar (on a terminal only).

    Raises:
        InputError: a depth that the network does not have, too few recordings, or another unusable argument.
        DataError: recordings that cannot be used.
        TrainingError: the model is an inference copy.
    """
    refuse_copy(model.backbone, "given exits")
    stages = len(model.backbone.config.stages)
    wanted = sorted({checked_exit_depth(depth, stages) for depth in (range(1, stages) if depths is None else depths)})
    if not wanted:
        raise InputError(f"depths is empty; expected whole numbers from 1 to {stages - 1}, or None for all")
    exits = {depth: EarlyExit(model.backbone, depth, model.embed_dim) for depth in wanted}

    def statistics(waveforms: list[Any]) -> tuple[Tensor, ...]:
        early = model.backbone.early_statistics(waveforms, sums=[*(one.weighted_sum for one in exits.values()), whole])
        return (*early[:-1], model.project(early[-1]))

    whole = model.backbone.encoder.final_sum
    with evaluation_mode(model):
        mapped = map_files(
            statistics,
            recordings,
            batch_seconds=batch_seconds,
            max_seconds=max_seconds,
            show_progress=show_progress,
            description="fitting exits",
            on_error="raise",
        )
    *pooled, embeddings = [torch.from_numpy(matrix).to(model.device) for matrix in mapped.matrices]
    for one, rows in zip(exits.values(), pooled, strict=True):
        one.fit(rows, embeddings, ridge=ridge)
    model.add_exits(wanted)
    for depth, one in exits.items():
        model.exits[str(depth)] = one

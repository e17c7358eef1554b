"""An early exit as a network of its own: the first stages alone, which can go wherever a whole network can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import torch

from mrl.backbone import ReDimNet
from mrl.errors import CheckpointError
from mrl.matryoshka.exits import EarlyExit


class Cut(TypedDict):
    """Where a model ends that is the beginning of another one.

    Embeddings of models with the same ``whole_sha256`` may be compared with each other, and with those of the whole model.
    """

    depth: int
    """After so many stages."""
    stages: int
    """So many has the whole model."""
    whole_sha256: str
    """Hash of the whole model's weights, see :func:`mrl.embeddings.weights_sha256`."""


def read_cut(values: Any, num_stages: int) -> Cut | None:
    """Return what a configuration says about a cut; None where it says nothing.

    Args:
        values: as in ``config.json``.
        num_stages: of the model that the configuration describes.

    Raises:
        CheckpointError: it cannot be true.
    """
    if values is None:
        return None
    if isinstance(values, Mapping):
        depth, stages, whole = (values.get(key) for key in ("depth", "stages", "whole_sha256"))
        if depth == num_stages and isinstance(stages, int) and stages > num_stages and isinstance(whole, str):
            return Cut(depth=num_stages, stages=stages, whole_sha256=whole)
    raise CheckpointError(f"cut={values!r} does not fit a model of {num_stages} stages; copy the model folder again")


@torch.no_grad()
def cut_backbone(backbone: ReDimNet, early: EarlyExit) -> ReDimNet:
    """Return a copy of ``backbone`` that ends where ``early`` leaves it; its embedding is the raw one of the exit."""
    depth = early.weighted_sum.num_inputs - 1
    config = backbone.config.replace(
        stages=backbone.config.stages[:depth],
        embed_dim=early.projection.embed_dim,
        embedding_norm=False,
        num_classes=None,
    )
    result = ReDimNet(config).to(backbone.device)
    with_exit = {
        "encoder.final_sum.": early.weighted_sum,
        "pooled_norm.": early.norm,
        "embedding.": early.projection,
    }
    state = {name: tensor for name, tensor in backbone.state_dict().items() if not name.startswith(tuple(with_exit))}
    for prefix, module in with_exit.items():
        state |= {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}
    result.load_state_dict({name: state[name] for name in result.state_dict()})
    result.pretrained_source = backbone.pretrained_source
    return result.eval()

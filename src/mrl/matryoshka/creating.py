"""Making a Matryoshka model from a pretrained network, and helpers on models: freeze, unfreeze, describe."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch

from mrl.backbone import Backbone
from mrl.dims import default_dims
from mrl.errors import InputError
from mrl.matryoshka.closed_form import data_free_rotation
from mrl.matryoshka.model import BatchNormStatistics, ReDimNetMRL
from mrl.pretrained import load_pretrained_redimnet


def create_mrl(
    backbone: Backbone, *, embed_dim: int = 256, mrl_dims: Iterable[int] | None = None, freeze_backbone: bool = False
) -> ReDimNetMRL:
    """Put a Matryoshka head on a network; see :func:`create_mrl_from_pretrained` for the arguments."""
    model = ReDimNetMRL(backbone, embed_dim, default_dims(embed_dim) if mrl_dims is None else mrl_dims)
    model.projection.assign(data_free_rotation(backbone))
    if freeze_backbone:
        model.freeze_backbone()
    return model.eval()


def create_mrl_from_pretrained(
    model_name: str | None = None,
    train_type: str | None = None,
    dataset: str | None = None,
    *,
    embed_dim: int = 256,
    mrl_dims: Iterable[int] | None = None,
    freeze_backbone: bool = False,
    weights: str | os.PathLike[str] | None = None,
    force_reload: bool = False,
    device: str | torch.device = "cpu",
) -> ReDimNetMRL:
    """Load a released ReDimNet and turn it into a Matryoshka model that scores exactly like it.

    The head starts as the pretrained embedding, rotated so that its energy comes first: at 192 and more dimensions all cosines
    are those of the pretrained model, and shorter prefixes are good before any training. Of the heads that need no recordings it
    won the accuracy study (docs/appendix/accuracy-study.md), which also compares what recordings add.

    Args:
        model_name, train_type, dataset: which one, see :func:`mrl.load_pretrained_redimnet`.
        embed_dim: length of the full embedding; what goes beyond the pretrained 192 is zero until fitted or trained.
        mrl_dims: prefix lengths to train and report (default: 16, 32, 64, 128, 192, 256, as far as ``embed_dim`` goes).
        freeze_backbone: start with the backbone frozen (stage 1).
        weights: a local file, a URL or a mirror folder to take the checkpoint from.
        force_reload: download again.
        device: where the model goes.

    Returns:
        The model, in eval mode.

    Raises:
        InputError: a combination that was never released, or unusable dims.
        DownloadError, CheckpointError: the file cannot be had or is damaged.
    """
    backbone = load_pretrained_redimnet(
        model_name, train_type, dataset, weights=weights, force_reload=force_reload, device=device
    )
    return create_mrl(backbone, embed_dim=embed_dim, mrl_dims=mrl_dims, freeze_backbone=freeze_backbone)


def freeze_backbone(model: ReDimNetMRL) -> None:
    """Freeze the backbone of ``model`` (stage 1): no parameter and no buffer of it changes until it is unfrozen."""
    _checked(model).freeze_backbone()


def unfreeze_backbone(model: ReDimNetMRL, batch_norm_statistics: BatchNormStatistics = "frozen") -> None:
    """Unfreeze the backbone of ``model`` (stage 2); BatchNorm's running statistics stay frozen unless ``"update"``."""
    _checked(model).unfreeze_backbone(batch_norm_statistics)


def get_model_info(model: Backbone | ReDimNetMRL) -> dict[str, Any]:
    """Return what a model is: kind, parameters, lengths, sample rate, source of its weights."""
    backbone = model.backbone if isinstance(model, ReDimNetMRL) else model
    info: dict[str, Any] = {
        "kind": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "trainable_parameters": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        "embed_dim": model.embed_dim,
        "pooled_dim": model.pooled_dim,
        "sample_rate": model.sample_rate,
        "device": str(model.device),
        "pretrained_source": backbone.pretrained_source,
    }
    if isinstance(model, ReDimNetMRL):
        info |= {
            "mrl_dims": list(model.mrl_dims),
            "depths": list(model.depths),
            "backbone_parameters": sum(parameter.numel() for parameter in backbone.parameters()),
            "projection_parameters": sum(parameter.numel() for parameter in model.projection.parameters()),
            "backbone_frozen": model.backbone_frozen,
            "backbone_is_unmodified": model.backbone_is_unmodified,
        }
    return info


def _checked(model: object) -> ReDimNetMRL:
    if not isinstance(model, ReDimNetMRL):
        raise InputError(f"expected a ReDimNetMRL (as create_mrl_from_pretrained gives it), got a {type(model).__name__}")
    return model
